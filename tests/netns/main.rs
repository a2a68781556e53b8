//! Lane `netns`: rooms of the shell against a real kernel, inside namespaces that each test makes.
//! Needs root; without it every test here is an error, not a skip.

mod interface;
mod routes;
mod space;
