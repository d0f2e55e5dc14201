//! Images that are built here, good and broken, and what is said about each; then the firmware of
//! the distribution, where it is installed.

mod distribution;
mod igvm;
mod judgements;
mod ovmf;
mod properties;
mod reads;
mod sentences;
