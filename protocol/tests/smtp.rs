//! SMTP's framing and both state machines under random input.

#[path = "smtp/back_to_back.rs"]
mod back_to_back;
#[path = "smtp/data_oracle.rs"]
mod data_oracle;
#[path = "smtp/never_panics.rs"]
mod never_panics;
