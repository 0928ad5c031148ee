//! What fuzzers run, and tests replay: `relay/fuzz` feeds it.

mod proxy;
mod sasl;
#[cfg(test)]
mod tests;

pub use proxy::proxy;
pub use sasl::sasl;

/// Takes bytes off the front of the input; zeros behind its end.
struct Program<'a>(&'a [u8]);

impl<'a> Program<'a> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// So many bytes as the next one says, or what is left.
    fn bytes(&mut self) -> &'a [u8] {
        let length = usize::from(self.byte()).min(self.0.len());
        let (bytes, rest) = self.0.split_at(length);
        self.0 = rest;
        bytes
    }
}
