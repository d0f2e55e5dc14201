//! Policies that `casemate-attestation` renders, as libraries read them that know nothing of it; see `tests/`.
