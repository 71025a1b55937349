//! The web page: a few files that are compiled in. It loads no scripts, fonts or styles from other
//! servers, and a content security policy enforces that.

use axum::Router;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;
use evidence::Kind;
use std::sync::LazyLock;

const HTML: &str = include_str!("page/index.html");
const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");
const WATCH_SCRIPT: &str = include_str!("page/watch.js");
const COVERAGE_SCRIPT: &str = include_str!("page/coverage.js");

/// [`HTML`] with an option for each kind.
static PAGE: LazyLock<String> = LazyLock::new(|| {
    let options = |of_offences| -> String {
        let kinds = Kind::all().filter(|kind| kind.offence().is_some() == of_offences);
        kinds.map(|kind| format!("<option>{kind}</option>")).collect()
    };
    HTML.replace("<!-- offences -->", &options(true)).replace("<!-- anomalies -->", &options(false))
});

pub(crate) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new()
        .route("/", get(|| file("text/html; charset=utf-8", &PAGE)))
        .route("/page.css", get(|| file("text/css; charset=utf-8", STYLE)))
        .route("/page.js", get(|| file("text/javascript; charset=utf-8", SCRIPT)))
        .route("/watch.js", get(|| file("text/javascript; charset=utf-8", WATCH_SCRIPT)))
        .route("/coverage.js", get(|| file("text/javascript; charset=utf-8", COVERAGE_SCRIPT)))
}

async fn file(content_type: &'static str, content: &'static str) -> impl IntoResponse {
    // Browsers must ask for the file again each time, so that no part of an old page stays after an
    // update.
    ([(header::CONTENT_TYPE, content_type), (header::CACHE_CONTROL, "no-cache")], content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_offers_every_kind() {
        let offences = "<option>double_vote</option><option>surround_vote</option><option>double_proposal</option></optgroup>";
        assert!(PAGE.contains(&format!("<optgroup label=\"Offences\">{offences}")), "offences first");
        for kind in Kind::all() {
            assert_eq!(PAGE.matches(&format!("<option>{kind}</option>")).count(), 1, "{kind}");
        }
    }
}
