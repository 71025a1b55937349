//! The web page: files that are compiled in. It loads no scripts, fonts or styles from other
//! servers, and a content security policy enforces that.
//!
//! Every view has an address of its own that can be sent to somebody else. The server answers all
//! of them with the same document; the script in it asks `/v1/...` and draws the view. More is in
//! `docs/dev/page.md`.

use crate::book;
use axum::Router;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;

/// The addresses of the views. `page/app.js` has the same list.
const VIEWS: [&str; 11] = [
    "/",
    "/findings/{id}",
    "/incidents",
    "/incidents/{id}",
    "/validators/{id}",
    "/slots/{slot}",
    "/epochs/{epoch}",
    "/heads",
    "/network",
    "/slashings",
    "/watch",
];

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";
const TEXT: &str = "text/plain; charset=utf-8";

const INDEX: &str = include_str!("page/index.html");

/// Declares the files below `/page/`, by content type and name.
macro_rules! files {
    ($($content_type:ident $name:literal,)+) => {
        [$((concat!("/page/", $name), $content_type, include_str!(concat!("page/", $name)))),+]
    };
}

const FILES: [(&str, &str, &str); 29] = files! {
    CSS "page.css",
    SVG "icon.svg",
    SCRIPT "app.js",
    SCRIPT "lib/charts.js",
    SCRIPT "lib/data.js",
    SCRIPT "lib/download.js",
    SCRIPT "lib/findings.js",
    SCRIPT "lib/parts.js",
    SCRIPT "lib/roots.js",
    SCRIPT "lib/search.js",
    SCRIPT "lib/stream.js",
    SCRIPT "lib/text.js",
    SCRIPT "lib/token.js",
    SCRIPT "lib/token_form.js",
    SCRIPT "lib/tree.js",
    SCRIPT "lib/words.js",
    TEXT "vendor/LICENSES.txt",
    SCRIPT "vendor/preact-htm.js",
    SCRIPT "views/epoch.js",
    SCRIPT "views/finding.js",
    SCRIPT "views/heads.js",
    SCRIPT "views/incident.js",
    SCRIPT "views/incidents.js",
    SCRIPT "views/network.js",
    SCRIPT "views/now.js",
    SCRIPT "views/slashings.js",
    SCRIPT "views/slot.js",
    SCRIPT "views/validator.js",
    SCRIPT "views/watch.js",
};

pub(crate) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    let views = VIEWS.into_iter().fold(Router::new(), |router, view| router.route(view, get(|| file(HTML, INDEX))));
    let files = FILES
        .into_iter()
        .fold(views, |router, (path, content_type, content)| router.route(path, get(move || file(content_type, content))));
    files.merge(book::routes())
}

/// Whether the path is that of a view, of one of the files or of a page of the book. They show
/// nothing that anybody has signed, so a reader who has no token yet gets them, and is asked for
/// one.
pub(crate) fn is_part_of_it(path: &str) -> bool {
    let is_view = |view: &&str| match view.split_once('{') {
        Some((before, _)) => path.strip_prefix(before).is_some_and(|rest| !rest.is_empty() && !rest.contains('/')),
        None => path == *view,
    };
    VIEWS.iter().any(is_view) || FILES.iter().any(|(file, ..)| path == *file) || book::is_page(path)
}

async fn file(content_type: &'static str, content: &'static str) -> impl IntoResponse {
    // Browsers must ask for the file again each time, so that no part of an old page stays after an
    // update.
    ([(header::CONTENT_TYPE, content_type), (header::CACHE_CONTROL, "no-cache")], content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use evidence::Kind;

    fn content(name: &str) -> &'static str {
        FILES.into_iter().find(|(path, ..)| *path == name).map(|(.., content)| content).unwrap()
    }

    #[test]
    fn the_page_has_a_name_for_every_kind() {
        let words = content("/page/lib/words.js");
        for kind in Kind::all() {
            assert_eq!(words.matches(&format!("\n  {kind}: \"")).count(), 1, "{kind} in KIND_NAMES");
            assert!(words.contains(&format!("\"{kind}\"")), "{kind} in OFFENCES or ANOMALIES");
        }
    }

    #[test]
    fn the_page_links_to_no_document_that_is_not_served() {
        let mut links = 0;
        for (name, _, content) in FILES {
            for (at, _) in content.match_indices("\"/docs/") {
                let link = content[at + 1..].split('"').next().unwrap();
                assert!(book::is_page(link), "{name} links to {link}");
                links += 1;
            }
        }
        assert!(links > 0 && is_part_of_it("/docs/restart.md"), "{links} links");
    }

    #[test]
    fn the_script_has_the_same_views() {
        let script = content("/page/app.js");
        for view in VIEWS {
            let pattern = view.replace('/', "\\/");
            let pattern = pattern.split_once('{').map_or(pattern.clone(), |(before, _)| format!("{before}([^/]+)"));
            assert!(script.contains(&format!("[/^{pattern}$/, ")), "{view}");
        }
        assert_eq!(script.matches("  [/^").count(), VIEWS.len());
    }
}
