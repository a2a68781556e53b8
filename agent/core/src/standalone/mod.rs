//! (see the room's issue)
