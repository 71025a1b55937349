//! The one notation for validators, used everywhere: in groups, in files, on the command line.
//!
//! | written | means |
//! |---|---|
//! | `123` | an index |
//! | `100-199` | indices, both ends included |
//! | `0x` and 96 hex digits | a public key |
//! | `0x` and 64 hex digits | all validators with these withdrawal credentials |
//! | `0x` and 40 hex digits | all validators that proposed a block with this fee recipient |

use consensus::{ExecutionAddress, PubkeyBytes, Root, ValidatorIndex};
use std::fmt;
use std::str::FromStr;

/// Names one or more validators; see the module's table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Selector {
    Index(ValidatorIndex),
    /// Both ends are included.
    Range {
        first: ValidatorIndex,
        last: ValidatorIndex,
    },
    Pubkey(PubkeyBytes),
    WithdrawalCredentials(Root),
    /// The proposers are learned from blocks, so it names nobody until such a block was received.
    FeeRecipient(ExecutionAddress),
}

/// The reason why a text names no validator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    #[error(
        "{text:?} names no validator: write an index, a range like 100-199, or 0x and the hex digits of a public key (96), \
         withdrawal credentials (64) or a fee recipient (40)"
    )]
    NotOne { text: String },
    #[error("{text:?} has {digits} hex digits; a public key has 96, withdrawal credentials 64, a fee recipient 40")]
    Length { text: String, digits: usize },
    #[error("the range {text:?} ends before it begins; write the smaller index first")]
    Backwards { text: String },
}

impl Selector {
    /// Whether it names keys, and not whoever gives itself a property.
    pub const fn names_keys(&self) -> bool {
        match self {
            Self::Index(_) | Self::Range { .. } | Self::Pubkey(_) => true,
            Self::WithdrawalCredentials(_) | Self::FeeRecipient(_) => false,
        }
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        let text = text.trim();
        let not_one = || SelectorError::NotOne { text: shortened(text) };
        if let Some(digits) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
            if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Err(not_one());
            }
            let read = || match digits.len() {
                96 => digits.parse().ok().map(Self::Pubkey),
                64 => digits.parse().ok().map(Self::WithdrawalCredentials),
                40 => digits.parse().ok().map(Self::FeeRecipient),
                _ => None,
            };
            return read().ok_or_else(|| SelectorError::Length { text: shortened(text), digits: digits.len() });
        }
        // The standard library parses `+5` as a number, but it is not a valid index here.
        let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
        if let Some((first, last)) = text.split_once('-') {
            let (first, last) = (number(first.trim()).ok_or_else(not_one)?, number(last.trim()).ok_or_else(not_one)?);
            if last < first {
                return Err(SelectorError::Backwards { text: shortened(text) });
            }
            return Ok(Self::Range { first, last });
        }
        number(text).map(Self::Index).ok_or_else(not_one)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Index(index) => write!(f, "{index}"),
            Self::Range { first, last } => write!(f, "{first}-{last}"),
            Self::Pubkey(pubkey) => write!(f, "{pubkey}"),
            Self::WithdrawalCredentials(credentials) => write!(f, "{credentials}"),
            Self::FeeRecipient(address) => write!(f, "{address}"),
        }
    }
}

/// The text as an error message quotes it, shortened because it may be anything.
fn shortened(text: &str) -> String {
    const MOST: usize = 100;
    if text.chars().count() <= MOST { text.to_owned() } else { format!("{}..", text.chars().take(MOST).collect::<String>()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read_and_written_alike() {
        let hex = |digits: usize| format!("0x{}", "ab".repeat(digits / 2));
        for text in ["0", "18446744073709551615", "100-199", "7-7", &hex(96), &hex(64), &hex(40)] {
            let selector: Selector = text.parse().unwrap();
            // An address is written in lower case, without a checksum, so the texts can be
            // compared.
            assert_eq!(selector.to_string().to_lowercase(), text);
        }
        assert!(matches!(hex(96).parse(), Ok(Selector::Pubkey(_))));
        assert!(matches!(hex(64).parse(), Ok(Selector::WithdrawalCredentials(_))));
        assert!(matches!(hex(40).parse(), Ok(Selector::FeeRecipient(_))));
        assert_eq!(" 5 - 9 ".parse(), Ok(Selector::Range { first: ValidatorIndex::new(5), last: ValidatorIndex::new(9) }));
    }

    #[test]
    fn anything_else_is_refused_with_what_to_write() {
        for text in ["", "-", "x", "1-", "-1", "+1", "1-2-3", "0x", "0xab", "0xzz", "18446744073709551616", "é"] {
            let told = text.parse::<Selector>().unwrap_err().to_string();
            assert!(told.contains("hex digits"), "{text:?}: {told}");
        }
        let told = "9-5".parse::<Selector>().unwrap_err().to_string();
        assert!(told.contains("smaller index first"), "{told}");
        let long = "9".repeat(100_000);
        assert!(long.parse::<Selector>().unwrap_err().to_string().len() < 500);
    }
}
