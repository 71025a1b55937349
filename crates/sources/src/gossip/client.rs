//! The client that a peer runs, as far as its agent string tells.

/// A client, recognised by the beginning of its agent string.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Client {
    Lighthouse,
    Grandine,
    Nimbus,
    Lodestar,
    Prysm,
    Teku,
    /// A client that sent no agent string, or an unknown one.
    Other,
}

impl Client {
    pub(crate) const LABELS: [&str; 7] = ["lighthouse", "grandine", "nimbus", "lodestar", "prysm", "teku", "other"];

    pub(crate) fn of_agent(agent: Option<&str>) -> Self {
        let names = [
            ("lighthouse", Self::Lighthouse),
            ("grandine", Self::Grandine),
            ("nimbus", Self::Nimbus),
            ("lodestar", Self::Lodestar),
            ("js-libp2p", Self::Lodestar),
            ("prysm", Self::Prysm),
            ("teku", Self::Teku),
        ];
        let agent = agent.unwrap_or_default();
        let is_named = |name: &str| agent.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name));
        names.into_iter().find(|(name, _)| is_named(name)).map_or(Self::Other, |(_, client)| client)
    }

    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Lighthouse => "lighthouse",
            Self::Grandine => "grandine",
            Self::Nimbus => "nimbus",
            Self::Lodestar => "lodestar",
            Self::Prysm => "prysm",
            Self::Teku => "teku",
            Self::Other => "other",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_known_by_the_beginning_of_their_agent() {
        let agents = [
            ("Lighthouse/v8.1.2-1a68631/x86_64-linux", Client::Lighthouse),
            ("Grandine/2.0.4", Client::Grandine),
            ("nimbus", Client::Nimbus),
            ("lodestar/v1.39.1", Client::Lodestar),
            ("js-libp2p/1.0.0", Client::Lodestar),
            ("Prysm/v7.1.6/c40b59a", Client::Prysm),
            ("teku/teku/v26.8.0", Client::Teku),
            ("slashwatch/0.1.0", Client::Other),
            ("tek\u{fc}", Client::Other),
            ("", Client::Other),
        ];
        for (agent, client) in agents {
            assert!(Client::LABELS.contains(&client.label()));
            assert_eq!(Client::of_agent(Some(agent)), client, "{agent}");
        }
        assert_eq!(Client::of_agent(None), Client::Other);
    }
}
