//! The checker, held against lists that are right, lists that are wrong in one way, and lists that
//! other projects start guests with.

mod boundaries;
mod lists;
mod mutations;
mod others;
mod parser;
