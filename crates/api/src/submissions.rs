//! Proofs that were submitted to beacon nodes.

use crate::findings::{PageQuery, read, understood};
use crate::problem::ProblemDetails;
use crate::server::Shared;
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use evidence::Submission;
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;

/// A page of submissions, in the order of their first attempt.
#[derive(Serialize, ToSchema)]
pub(crate) struct SubmissionsView {
    schema: u64,
    submissions: Vec<Submission>,
    /// Cursor of the next page, for the parameter `cursor`. Null at the end.
    next: Option<String>,
}

/// Submissions in the order of their first attempt. The list is empty if submission was never
/// switched on.
#[utoipa::path(get, path = "/v1/submissions", tag = "findings", params(PageQuery), responses(
    (status = 200, description = "a page", body = SubmissionsView),
    (status = 400, description = "a parameter is wrong", body = ProblemDetails, content_type = "application/problem+json"),
))]
pub(crate) async fn list(
    State(shared): State<Arc<Shared>>,
    query: Result<Query<PageQuery>, QueryRejection>,
) -> Result<Json<SubmissionsView>, ProblemDetails> {
    let (after, limit) = understood(query)?.position()?;
    let submissions = read(&shared, move |store| store.submissions_after(after, limit)).await?;
    let submissions: Vec<_> = submissions.into_iter().map(|one| shared.privacy.submission(one)).collect();
    let next = submissions.last().filter(|_| submissions.len() == limit).map(|last| last.number.to_string());
    Ok(Json(SubmissionsView { schema: 1, submissions, next }))
}
