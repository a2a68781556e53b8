pub mod defaults;
pub mod manifest;
pub mod parse;
pub mod strict;
pub mod validate;
pub mod yaml;
