//! An exchange in the lines of IMAP and POP3.

use super::{ClientKeys, Derivation, Exchange, Failure, Step};
use crate::sasl::base64;
use crate::sasl::line::{NoResponse, initial_text, response};

/// An exchange whose challenges and responses are lines of base64.
#[derive(Debug)]
pub struct LineExchange {
    exchange: Exchange,
    /// The initial response, while it waits for an empty challenge.
    initial: Option<Vec<u8>>,
    /// Work that the last challenge asks for.
    derivation: Option<Derivation>,
}

impl LineExchange {
    /// The exchange, and what the command for it is given: the mechanism, and the initial response where there is room for so many
    /// octets of text.
    pub fn begin(mut exchange: Exchange, room: usize) -> (LineExchange, String) {
        let name = exchange.mechanism().name();
        let initial = exchange.initial();
        let text = initial.as_deref().map(|octets| format!("{name} {}", initial_text(octets)));
        let (initial, argument) = match text.filter(|text| text.len() <= room) {
            Some(text) => (None, text),
            None => (initial, name.to_owned()),
        };
        (LineExchange { exchange, initial, derivation: None }, argument)
    }

    /// Answers the text of a challenge with a line. Blanks around it do not count, and `=` stands for nothing with some servers. None: [`LineExchange::use_keys`] does, once the derivation is done.
    pub fn handle_challenge(&mut self, text: &[u8]) -> Result<Option<String>, Failure> {
        let text = text.trim_ascii();
        let text = if text == b"=" { &[][..] } else { text };
        let challenge = response(text).map_err(|error| match error {
            NoResponse::TooLong => Failure::TooLong,
            NoResponse::Cancelled | NoResponse::Malformed => Failure::Malformed,
        })?;
        if let Some(initial) = self.initial.take() {
            return if challenge.is_empty() { Ok(Some(line(&initial))) } else { Err(Failure::Malformed) };
        }
        match self.exchange.handle_challenge(&challenge)? {
            Step::Response(octets) => Ok(Some(line(&octets))),
            Step::Derive(derivation) => {
                self.derivation = Some(derivation);
                Ok(None)
            }
        }
    }

    /// The derivation that is wanted, once.
    pub fn take_derivation(&mut self) -> Option<Derivation> {
        self.derivation.take()
    }

    /// The line after a derivation.
    pub fn use_keys(&mut self, keys: &ClientKeys) -> Result<String, Failure> {
        self.exchange.use_keys(keys).map(|octets| line(&octets))
    }

    /// Whether the server's success counts.
    pub fn handle_success(&mut self) -> Result<(), Failure> {
        if self.initial.is_some() { Err(Failure::OutOfTurn) } else { self.exchange.handle_success(None) }
    }
}

fn line(octets: &[u8]) -> String {
    base64::encode(octets) + "\r\n"
}

#[cfg(test)]
mod tests {
    use super::super::Options;
    use super::*;
    use crate::sasl::Nonce;
    use crate::sasl::accounts::Account;
    use crate::sasl::mechanism::{Mechanism, Mechanisms};

    fn begin(room: usize) -> (LineExchange, String) {
        let offered = Mechanisms::NONE.with(Mechanism::Plain);
        let options = Options::new(offered, Mechanisms::ALL, None, true);
        let account = Account::new("a", "b").unwrap();
        LineExchange::begin(Exchange::new(&options, &account, Nonce([0; 18]), None).unwrap(), room)
    }

    #[test]
    fn an_initial_response_goes_where_there_is_room() {
        // Proves: with room the initial response is in the command; else it answers an empty challenge, and `=` is one.
        let whole = "PLAIN AGEAYg==";
        assert_eq!(begin(whole.len()).1, whole);
        for empty in [&b""[..], b"=", b" "] {
            let (mut exchange, argument) = begin(whole.len() - 1);
            assert_eq!(argument, "PLAIN");
            assert_eq!(exchange.handle_success(), Err(Failure::OutOfTurn));
            assert_eq!(exchange.handle_challenge(empty), Ok(Some("AGEAYg==\r\n".to_owned())));
            assert_eq!(exchange.handle_success(), Ok(()));
        }
        for (challenge, failure) in
            [(&b"%%%"[..], Failure::Malformed), (b"*", Failure::Malformed), (b"YQ==", Failure::Malformed)]
        {
            assert_eq!(begin(0).0.handle_challenge(challenge), Err(failure));
        }
    }
}
