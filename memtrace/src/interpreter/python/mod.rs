//! stub
pub mod code;
pub mod types;
