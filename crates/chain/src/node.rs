//! A client for the REST API of beacon nodes: <https://github.com/ethereum/beacon-APIs>.
//!
//! A [`NodeSet`] is a set of one or more nodes. A request goes to the last node that answered. If
//! it fails, it goes to the next one, and after all have failed, it is repeated after a pause. The
//! response of a node is treated as hostile input: its size is bounded before it is read, numbers
//! and roots are parsed strictly, and each error names the node and what to do next. This module
//! does not decide what is true; its callers check the states and blocks.
//!
//! Peculiarities that this client handles (seen in Lodestar 1.5.1):
//!
//! - Blocks are served only as JSON. They are requested as SSZ, and JSON is accepted.
//! - `/committees` swaps index and slot. It is never requested.
//! - `/genesis` has another fork version than the configuration. It is not read; the state decides.
//! - The pools of slashings know only v1. It is tried after v2.
//!
//! TLS uses the `rustls` provider of the process if one is installed, otherwise ring. The
//! certificates of the system are read only if a URL is `https`.
//!
//! Limits: [`ResponseLimits`].

mod error;
mod transport;
mod types;
mod waiting;

pub use error::NodeError;
pub use transport::{MAX_NODES, NodeConfig, NodeSet, ResponseLimits};
pub use types::{BlockId, Finality, Genesis, HeaderInfo, NodeBlock, NodeIdentity, StateId, Syncing, ValidatorStatus};

use consensus::{Checkpoint, DecodeError, ForkName, Root, SignedBlock, Slot, Spec, ValidatorIndex};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use transport::{BodyFormat, NodeResponse};

const FINALITY: &str = "/eth/v1/beacon/states/head/finality_checkpoints";
/// Maximum number of validators in one request.
const STATUS_BATCH: usize = 64;
/// Maximum number of validators in one call of [`NodeSet::validator_statuses`].
pub const MAX_STATUSES: usize = 16_384;

/// The network that a node reports.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeNetwork {
    pub spec: Spec,
    pub genesis: Genesis,
}

#[derive(Deserialize)]
struct Data<T> {
    data: T,
}

impl NodeSet {
    /// Requests the genesis time and the genesis validators root.
    pub async fn genesis(&self) -> Result<Genesis, NodeError> {
        self.json("/eth/v1/beacon/genesis").await
    }

    /// Requests the network's configuration that the node uses.
    pub async fn config_spec(&self) -> Result<Spec, NodeError> {
        let path = "/eth/v1/config/spec";
        let answer = self.get(path, BodyFormat::Json, self.limits().small_bytes).await?;
        let body: Value = answer.parse()?;
        Spec::from_api_json(&body).map_err(|error| NodeError::malformed(&answer.node, path, error.to_string()))
    }

    /// Asks all nodes at the same time for their networks. A node that cannot be reached or does
    /// not report it has an error, and is asked after the others from here on.
    pub async fn networks(&self) -> Vec<(String, Result<NodeNetwork, NodeError>)> {
        let each = (0..self.len()).map(|nth| async move { (self.label(nth), self.network_of(nth).await) });
        let networks = futures::future::join_all(each).await;
        if networks[self.preferred()].1.is_err()
            && let Some(nth) = networks.iter().position(|(_, network)| network.is_ok())
        {
            self.prefer(nth);
        }
        networks
    }

    async fn network_of(&self, nth: usize) -> Result<NodeNetwork, NodeError> {
        let limit = self.limits().small_bytes;
        let path = "/eth/v1/config/spec";
        let answer = self.get_from(nth, path, BodyFormat::Json, limit).await?;
        let spec =
            Spec::from_api_json(&answer.parse()?).map_err(|error| NodeError::malformed(&answer.node, path, error.to_string()))?;
        let genesis = self.get_from(nth, "/eth/v1/beacon/genesis", BodyFormat::Json, limit).await?;
        Ok(NodeNetwork { spec, genesis: genesis.parse::<Data<Genesis>>()?.data })
    }

    /// Requests a whole state as SSZ. On mainnet it has hundreds of MB.
    pub async fn state_ssz(&self, id: StateId) -> Result<Vec<u8>, NodeError> {
        let path = format!("/eth/v2/debug/beacon/states/{id}");
        let answer = self.get(&path, BodyFormat::State, self.limits().state_bytes).await?;
        Self::state_in(answer, path)
    }

    /// Like [`Self::state_ssz`], from one node only.
    pub async fn state_ssz_of(&self, nth: usize, id: StateId) -> Result<Vec<u8>, NodeError> {
        let path = format!("/eth/v2/debug/beacon/states/{id}");
        let answer = self.get_from(nth, &path, BodyFormat::State, self.limits().state_bytes).await?;
        Self::state_in(answer, path)
    }

    fn state_in(answer: NodeResponse, path: String) -> Result<Vec<u8>, NodeError> {
        if answer.is_json() {
            return Err(NodeError::malformed(
                &answer.node,
                &path,
                "it answers JSON where SSZ was asked for; use a node that serves states as SSZ".to_owned(),
            ));
        }
        Ok(answer.body)
    }

    /// Requests a signed block as SSZ. Returns `None` if no node has it. Nodes that serve only JSON
    /// are supported.
    pub async fn block_ssz(&self, id: BlockId, spec: &Spec) -> Result<Option<NodeBlock>, NodeError> {
        let path = format!("/eth/v2/beacon/blocks/{id}");
        let limit = self.limits().block_bytes;
        let mut result = self.get(&path, BodyFormat::SszOrJson, limit).await;
        if matches!(&result, Err(error) if error.is_about_format()) {
            result = self.get(&path, BodyFormat::Json, limit).await;
        }
        let answer = match result {
            Ok(answer) => answer,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error),
        };
        let node = answer.node.clone();
        let malformed = |reason: String| NodeError::malformed(&node, &path, reason);
        if !answer.is_json() {
            let slot =
                consensus::block_prefix(&answer.body).ok_or_else(|| malformed("it is too short for a block".to_owned()))?.slot;
            let fork = match &answer.version {
                Some(version) => types::fork_by_name(version).ok_or_else(|| malformed(format!("unknown fork {version:?}")))?,
                None => spec.fork_name_at(slot.epoch(&spec.preset)),
            };
            return Ok(Some(NodeBlock { fork, ssz: answer.body }));
        }
        #[derive(Deserialize)]
        struct Versioned {
            version: Option<String>,
            data: Value,
        }
        let version_header = answer.version.clone();
        let body: Versioned = answer.parse()?;
        let fork = match body.version.or(version_header) {
            Some(version) => types::fork_by_name(&version).ok_or_else(|| malformed(format!("unknown fork {version:?}")))?,
            None => {
                let slot = body.data.pointer("/message/slot").and_then(Value::as_str).and_then(|text| text.parse::<Slot>().ok());
                spec.fork_name_at(slot.ok_or_else(|| malformed("no slot in the block".to_owned()))?.epoch(&spec.preset))
            }
        };
        let ssz = SignedBlock::ssz_from_json(fork, &spec.preset, &body.data)
            .map_err(|error: DecodeError| malformed(error.to_string()))?;
        Ok(Some(NodeBlock { fork, ssz }))
    }

    /// Requests one header. Returns `None` if no node has it.
    pub async fn header(&self, id: BlockId) -> Result<Option<HeaderInfo>, NodeError> {
        match self.json(&format!("/eth/v1/beacon/headers/{id}")).await {
            Ok(header) => Ok(Some(header)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Requests the state of the node's synchronisation.
    pub async fn syncing(&self) -> Result<Syncing, NodeError> {
        self.json("/eth/v1/node/syncing").await
    }

    /// Requests the node's addresses on the peer-to-peer network.
    pub async fn identity(&self) -> Result<NodeIdentity, NodeError> {
        self.json("/eth/v1/node/identity").await
    }

    /// Requests the addresses of every node of the set, so that the program can peer with all of
    /// them. A node that does not answer has an error.
    pub async fn identities(&self) -> Vec<(String, Result<NodeIdentity, NodeError>)> {
        let mut identities = Vec::new();
        for nth in 0..self.len() {
            let answer = self.get_from(nth, "/eth/v1/node/identity", BodyFormat::Json, self.limits().small_bytes).await;
            let parsed = answer.and_then(|answer| answer.parse::<Data<NodeIdentity>>()).map(|body| body.data);
            identities.push((self.label(nth), parsed));
        }
        identities
    }

    /// Requests the statuses and balances of validators in the head state. Unknown indices are left
    /// out. At most [`MAX_STATUSES`] are requested.
    pub async fn validator_statuses(&self, indices: &[ValidatorIndex]) -> Result<Vec<ValidatorStatus>, NodeError> {
        let mut statuses: Vec<ValidatorStatus> = Vec::new();
        for batch in indices[..indices.len().min(MAX_STATUSES)].chunks(STATUS_BATCH) {
            let ids: Vec<String> = batch.iter().map(ValidatorIndex::to_string).collect();
            let path = format!("/eth/v1/beacon/states/head/validators?id={}", ids.join(","));
            let answer: Vec<ValidatorStatus> = self.json(&path).await?;
            statuses.extend(answer.into_iter().filter(|status| batch.contains(&status.index)));
        }
        Ok(statuses)
    }

    /// Asks all nodes at the same time for the checkpoint that they have finalized.
    pub async fn finalized_of_each(&self) -> Vec<(String, Result<Checkpoint, NodeError>)> {
        let each = (0..self.len()).map(|nth| async move {
            let answer = self.get_from(nth, FINALITY, BodyFormat::Json, self.limits().small_bytes).await;
            let finality = answer.and_then(|answer| answer.parse::<Data<Finality>>()).map(|body| body.data);
            (self.label(nth), finality.map(|finality| finality.finalized))
        });
        futures::future::join_all(each).await
    }

    /// Asks one node for the root of the block in a slot of the chain that it follows. Returns
    /// `None` if it knows no block there.
    pub async fn block_root_of(&self, nth: usize, slot: Slot) -> Result<Option<Root>, NodeError> {
        #[derive(Deserialize)]
        struct BlockRoot {
            root: Root,
        }
        let path = format!("/eth/v1/beacon/blocks/{slot}/root");
        match self.get_from(nth, &path, BodyFormat::Json, self.limits().small_bytes).await {
            Ok(answer) => Ok(Some(answer.parse::<Data<BlockRoot>>()?.data.root)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Requests the justified and finalized checkpoints of the head.
    pub async fn finality(&self) -> Result<Finality, NodeError> {
        self.json(FINALITY).await
    }

    /// Submits an `AttesterSlashing` (JSON of the beacon API) to the pool of **every** node. v2 is
    /// used with the fork, then v1. `Ok` lists the nodes that accepted it; there is at least one.
    pub async fn submit_attester_slashing(&self, fork: ForkName, json: &Value) -> Result<Vec<String>, NodeError> {
        self.submit("/eth/v2/beacon/pool/attester_slashings", "/eth/v1/beacon/pool/attester_slashings", fork, json).await
    }

    /// Submits a `ProposerSlashing` (JSON of the beacon API) to the pool of every node. `Ok` lists
    /// the nodes that accepted it; there is at least one.
    pub async fn submit_proposer_slashing(&self, fork: ForkName, json: &Value) -> Result<Vec<String>, NodeError> {
        let path = "/eth/v1/beacon/pool/proposer_slashings";
        self.submit(path, path, fork, json).await
    }

    async fn submit(&self, path: &str, older: &str, fork: ForkName, json: &Value) -> Result<Vec<String>, NodeError> {
        let mut taken = Vec::new();
        let mut errors = Vec::new();
        for nth in 0..self.len() {
            let mut result = self.post_to(nth, path, fork, json).await;
            if path != older && matches!(&result, Err(error) if error.is_unsupported()) {
                result = self.post_to(nth, older, fork, json).await;
            }
            match result {
                Ok(()) => taken.push(self.label(nth)),
                Err(error) => errors.push(error),
            }
        }
        if taken.is_empty() { Err(NodeError::all_failed(path, errors)) } else { Ok(taken) }
    }

    /// Requests a JSON document and returns its `data`.
    async fn json<T: DeserializeOwned + Send>(&self, path: &str) -> Result<T, NodeError> {
        let body: Data<T> = self.get_parsed(path, self.limits().small_bytes).await?;
        Ok(body.data)
    }
}

impl NodeSet {
    /// Requests the root of the head block.
    pub async fn head_root(&self) -> Result<Option<Root>, NodeError> {
        Ok(self.header(BlockId::Head).await?.map(|header| header.root))
    }
}
