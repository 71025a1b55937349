//! What a root names, for a search box: one question instead of one for each kind of thing.

use crate::findings::{Segment, hash, read};
use crate::problem::ProblemDetails;
use crate::server::Shared;
use axum::Json;
use axum::extract::State;
use consensus::{Root, Slot};
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;

/// What a root names here. A root that names nothing is no error.
#[derive(Serialize, ToSchema)]
pub(crate) struct RootView {
    schema: u64,
    #[schema(value_type = String)]
    root: Root,
    /// It is the id of a finding: `/v1/findings/{id}`.
    finding: bool,
    /// It is the id of an incident: `/v1/incidents/{id}`.
    incident: bool,
    /// It is the id of a proof: `/v1/evidence/{id}`.
    evidence: bool,
    /// The slot of the block with this root, if it is one of the last epochs.
    #[schema(value_type = Option<String>)]
    block_slot: Option<Slot>,
}

/// What a root names: a finding, an incident, a proof, or a block of the last epochs.
#[utoipa::path(get, path = "/v1/roots/{root}", operation_id = "getRoot", tag = "network", params(("root" = String, Path, description = "0x-hex")), responses(
    (status = 200, description = "what it names", body = RootView),
    (status = 400, description = "no root", body = ProblemDetails, content_type = "application/problem+json"),
))]
pub(crate) async fn root(State(shared): State<Arc<Shared>>, Segment(text): Segment) -> Result<Json<RootView>, ProblemDetails> {
    let root = hash(&text)?;
    let privacy = shared.privacy.clone();
    let (finding, incident, evidence) = read(&shared, move |store| {
        let finding = store.finding(root)?.and_then(|(_, finding)| privacy.finding(finding));
        let incident = store.incident(root)?.and_then(|incident| privacy.incident(incident));
        Ok((finding.is_some(), incident.is_some(), store.evidence(root)?.is_some()))
    })
    .await?;
    let recent = shared.observed.recent();
    let in_tree = recent.blocks.iter().find(|block| block.root == root).map(|block| block.slot);
    let of_slot = || recent.slots.values().find(|slot| slot.blocks.iter().any(|block| block.root == root)).map(|slot| slot.slot);
    let block_slot = in_tree.or_else(of_slot);
    Ok(Json(RootView { schema: 1, root, finding, incident, evidence, block_slot }))
}
