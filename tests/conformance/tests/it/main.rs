//! The suite, tested: what it says of the shipped backends, of components that break one rule each, and
//! in each of its forms.

mod broken;
mod command;
mod docs;
mod forms;
mod made;
mod shipped;
