//! Backends in registries: pushed, pulled, pinned, held against signatures, and refused where
//! something is wrong. With a real registry, other people's programs that sign, and a server that
//! answers as no registry should.

mod bench;
mod credentials;
mod damaged;
mod flags;
mod hostile;
mod mirrors;
mod refusals;
mod registry;
mod transport;
mod trust;
