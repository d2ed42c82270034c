//! Secrets that show who may ask for what. A token stands in the environment or in a file, never in
//! a flag, and is printed nowhere.

use std::fmt;
use std::hint::black_box;
use std::path::PathBuf;

/// A token has at most so many characters: the head of a request has no room for more.
const MAX_CHARS: usize = 1024;

/// The tokens that are accepted: none, or the one that is used now and others that are not out of
/// use yet.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Tokens(Vec<Box<str>>);

/// Where tokens come from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Source {
    /// There are none.
    #[default]
    Nowhere,
    /// The environment.
    Given(Tokens),
    /// A file with the same text.
    File(PathBuf),
}

impl Tokens {
    /// What a text of tokens must be.
    pub const RULE: &'static str =
        "tokens of 1 to 1024 letters, digits and -._~+/=, separated by commas";

    /// The tokens of a text with commas between them; `None` when that is not what it is.
    pub fn parse(text: &str) -> Option<Tokens> {
        let is_token = |token: &&str| {
            let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
            (1..=MAX_CHARS).contains(&token.len()) && token.bytes().all(legal)
        };
        let tokens = text.split(',').map(str::trim);
        tokens
            .map(|token| Some(token).filter(is_token).map(Into::into))
            .collect::<Option<_>>()
            .map(Tokens)
    }

    /// Whether there are none: nobody needs one.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The one to send.
    pub fn first(&self) -> Option<&str> {
        self.0.first().map(AsRef::as_ref)
    }

    /// Whether this is one of them. The time that this takes tells nothing but lengths.
    pub fn contain(&self, token: &str) -> bool {
        self.0
            .iter()
            .fold(false, |found, known| found | is_same(known.as_bytes(), token.as_bytes()))
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} tokens", self.0.len())
    }
}

/// Compares all bytes wherever the first difference is.
fn is_same(one: &[u8], other: &[u8]) -> bool {
    let differences = |sum, (a, b): (&u8, &u8)| black_box(sum | (a ^ b));
    one.len() == other.len() && one.iter().zip(other).fold(0, differences) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_of_several_tokens_is_one() {
        let tokens = Tokens::parse(" new/1== , old-2 \n").unwrap();
        assert_eq!(tokens.first(), Some("new/1=="));
        for (token, is_one) in
            [("new/1==", true), ("old-2", true), ("new/1=", false), ("old-3", false), ("", false)]
        {
            assert_eq!(tokens.contain(token), is_one, "{token}");
        }
        assert!(!Tokens::default().contain(""), "none is no token");
    }

    #[test]
    fn what_cannot_stand_in_a_header_is_no_token() {
        let long = "x".repeat(1025);
        for text in ["", " ", ",", "a,", "a,,b", "a b", "ä", "a\"", "a\r\nb", "a;b", &long] {
            assert_eq!(Tokens::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn tokens_are_not_printed() {
        let source = Source::Given(Tokens::parse("secret,other").unwrap());
        assert_eq!(format!("{source:?}"), "Given(2 tokens)");
    }
}
