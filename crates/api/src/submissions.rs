//! Proofs that were submitted to beacon nodes.

use crate::findings::{number, page_limit, read, understood};
use crate::problem::ProblemDetails;
use crate::server::Shared;
use crate::view::SubmissionsView;
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use serde::Deserialize;
use std::sync::Arc;
use utoipa::IntoParams;

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct SubmissionsQuery {
    /// Cursor from the previous page (`next`).
    cursor: Option<String>,
    /// Length of the page, 1 to 1000. The default is 100.
    limit: Option<String>,
}

/// Submissions in the order of their first attempt. The list is empty if submission was never
/// switched on.
#[utoipa::path(get, path = "/v1/submissions", tag = "findings", params(SubmissionsQuery), responses(
    (status = 200, description = "a page", body = SubmissionsView),
    (status = 400, description = "a parameter is wrong", body = ProblemDetails, content_type = "application/problem+json"),
))]
pub(crate) async fn list(
    State(shared): State<Arc<Shared>>,
    query: Result<Query<SubmissionsQuery>, QueryRejection>,
) -> Result<Json<SubmissionsView>, ProblemDetails> {
    let query = understood(query)?;
    let limit = page_limit(&query.limit)?;
    let after = number(&query.cursor, "cursor")?.unwrap_or(0);
    let submissions = read(&shared, move |store| store.submissions_after(after, limit)).await?;
    let submissions: Vec<_> = submissions.into_iter().map(|one| shared.privacy.submission(one)).collect();
    let next = submissions.last().filter(|_| submissions.len() == limit).map(|last| last.number.to_string());
    Ok(Json(SubmissionsView { schema: 1, submissions, next }))
}
