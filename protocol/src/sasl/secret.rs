//! Text that is wiped when it is dropped and never shown.

use std::fmt;
use zeroize::Zeroizing;

/// A password as it was given. Its memory is wiped when it is dropped; buffers that it came through are not, for they are the
/// connection's. Debug shows no character of it.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes a text over.
    pub fn new(text: String) -> Secret {
        Secret(Zeroizing::new(text))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(..)")
    }
}
