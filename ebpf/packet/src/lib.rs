//! The packet logic of Longshore: generic over [`Packet`] and [`Maps`], without aya.
#![no_std]
