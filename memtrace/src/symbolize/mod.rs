//! From addresses to functions.
