//! Pieces of sentences.

use std::fmt::Display;

/// A number with its unit, such as `1 block` or `2 blocks`.
pub fn counted(n: impl Display, one: &str, many: &str) -> String {
    let n = n.to_string();
    let unit = if n == "1" { one } else { many };
    format!("{n} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_no_plural() {
        let shown = [0_u64, 1, 2, 11].map(|n| counted(n, "entry", "entries"));
        assert_eq!(shown, ["0 entries", "1 entry", "2 entries", "11 entries"]);
    }
}
