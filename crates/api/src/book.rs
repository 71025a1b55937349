//! Pages of the book, compiled in, so that what to do at night is at hand in a closed network too,
//! and is that of this version. A browser gets them as HTML, every other client as they are.
//!
//! The HTML has no styles or scripts of its own and no markup that a page brings along. A link to
//! a page that is not served here becomes its text.

use axum::Router;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use pulldown_cmark::{Alignment, CowStr, Event, Options, Parser, Tag, TagEnd, html};
use std::collections::BTreeMap;

/// Declares pages by name.
macro_rules! book {
    ($($name:literal,)+) => {
        [$((concat!("/docs/", $name), include_str!(concat!("../../../docs/", $name)))),+]
    };
}

/// Paths and texts.
const BOOK: [(&str, &str); 23] = book! {
    "api-reference.md",
    "api.md",
    "configuration.md",
    "coverage.md",
    "curve.md",
    "detection.md",
    "formats.md",
    "install.md",
    "introduction.md",
    "lost-database.md",
    "metrics.md",
    "monitoring.md",
    "operating.md",
    "path-client-team.md",
    "path-public-dashboard.md",
    "path-staking-provider.md",
    "peers.md",
    "privacy.md",
    "quickstart.md",
    "restart.md",
    "runbook.md",
    "sizing.md",
    "watching.md",
};

pub(crate) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    BOOK.into_iter().fold(Router::new(), |router, (path, text)| {
        router.route(path, get(move |headers: HeaderMap| async move { page(text, &headers) }))
    })
}

/// Whether the path is that of a page.
pub(crate) fn is_page(path: &str) -> bool {
    BOOK.iter().any(|(page, _)| path == *page)
}

fn page(text: &'static str, headers: &HeaderMap) -> Response {
    let kept = [(header::CACHE_CONTROL, "no-cache"), (header::VARY, "accept")];
    let accepted = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if accepted.contains("text/html") {
        (kept, [(header::CONTENT_TYPE, "text/html; charset=utf-8")], document(text)).into_response()
    } else {
        (kept, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response()
    }
}

/// A page as an HTML document.
fn document(text: &str) -> String {
    let title = text.lines().find_map(|line| line.strip_prefix("# ")).unwrap_or("slashwatch");
    let mut body = String::new();
    html::push_html(&mut body, events(text).into_iter());
    let mut shown_title = String::new();
    html::push_html(&mut shown_title, std::iter::once(Event::Text(title.into())));
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{shown_title} · slashwatch</title>\n<link rel=\"icon\" href=\"/page/icon.svg\" type=\"image/svg+xml\">\n\
         <link rel=\"stylesheet\" href=\"/page/page.css\">\n</head>\n<body>\n\
         <header class=\"top\"><a class=\"name\" href=\"/\">slashwatch</a><nav aria-label=\"Book\"><a href=\"/docs/runbook.md\">Runbook</a> \
         <a href=\"/docs/restart.md\">Restart</a> <a href=\"/docs/watching.md\">Watching your keys</a> <a href=\"/docs/operating.md\">Operating</a></nav></header>\n\
         <main class=\"book\">\n{body}</main>\n</body>\n</html>\n"
    )
}

/// The page without what may not be shown, and with an anchor for each heading.
fn events(text: &str) -> Vec<Event<'_>> {
    let mut shown: Vec<Event<'_>> = Vec::new();
    let mut anchors: BTreeMap<String, usize> = BTreeMap::new();
    let mut heading = None;
    let mut is_dropped_link = false;
    let mut n_tables = 0;
    for event in Parser::new_ext(text, Options::ENABLE_TABLES) {
        match event {
            Event::Html(markup) | Event::InlineHtml(markup) => shown.push(Event::Text(markup)),
            Event::Start(Tag::Image { .. }) | Event::End(TagEnd::Image) => {}
            Event::Start(Tag::Link { ref dest_url, .. }) if !leads_somewhere(dest_url) => is_dropped_link = true,
            Event::End(TagEnd::Link) if is_dropped_link => is_dropped_link = false,
            Event::Start(Tag::Table(columns)) => {
                // A column that is aligned would bring a style of its own.
                n_tables += 1;
                let frame = format!("<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Table {n_tables}\">");
                shown.push(Event::Html(frame.into()));
                shown.push(Event::Start(Tag::Table(vec![Alignment::None; columns.len()])));
            }
            Event::End(TagEnd::Table) => shown.extend([Event::End(TagEnd::Table), Event::Html("</div>".into())]),
            Event::Start(Tag::CodeBlock(_)) => {
                shown.push(Event::Html("<pre tabindex=\"0\"><code>".into()));
            }
            Event::End(TagEnd::CodeBlock) => shown.push(Event::Html("</code></pre>\n".into())),
            Event::Start(Tag::Heading { .. }) => {
                heading = Some(shown.len());
                shown.push(event);
            }
            Event::End(TagEnd::Heading(_)) => {
                let name = heading.take().map(|start| (start, slug(&shown[start..])));
                if let Some((start, name)) = name
                    && let Event::Start(Tag::Heading { id, .. }) = &mut shown[start]
                {
                    let nth = anchors.entry(name.clone()).or_default();
                    *id = Some(CowStr::from(if *nth == 0 { name } else { format!("{name}-{nth}") }));
                    *nth += 1;
                }
                shown.push(event);
            }
            other => shown.push(other),
        }
    }
    shown
}

/// Whether a link leads to another page of the book, to another place in its page, or to another
/// server.
fn leads_somewhere(link: &str) -> bool {
    let path = link.split('#').next().unwrap_or_default();
    path.is_empty() || path.starts_with("https://") || path.starts_with("http://") || is_page(&format!("/docs/{path}"))
}

/// The anchor of a heading, as GitHub and mdBook make it.
fn slug(heading: &[Event<'_>]) -> String {
    let texts = heading.iter().filter_map(|event| match event {
        Event::Text(text) | Event::Code(text) => Some(text.to_lowercase()),
        _ => None,
    });
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    texts.collect::<String>().chars().filter(kept).map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// The values of an attribute.
    fn values<'a>(html: &'a str, attribute: &str) -> Vec<&'a str> {
        html.split(&format!(" {attribute}=\"")).skip(1).filter_map(|rest| rest.split('"').next()).collect()
    }

    #[test]
    fn every_link_leads_to_a_page_that_is_served_and_to_a_place_in_it() {
        let pages: BTreeMap<&str, String> = BOOK.into_iter().map(|(path, text)| (path, document(text))).collect();
        let anchors: BTreeMap<&str, BTreeSet<&str>> =
            pages.iter().map(|(path, html)| (*path, values(html, "id").into_iter().collect())).collect();
        let mut n_links = 0;
        for (page, html) in &pages {
            let links = values(html, "href").into_iter().filter(|link| !link.starts_with("http") && !link.starts_with("/page/"));
            for link in links.filter(|link| *link != "/") {
                let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
                let path = match path {
                    "" => (*page).to_owned(),
                    path if path.starts_with('/') => path.to_owned(),
                    path => format!("/docs/{path}"),
                };
                let known = anchors.get(path.as_str()).unwrap_or_else(|| panic!("{page} links to {link}"));
                assert!(anchor.is_empty() || known.contains(anchor), "{page} links to {link}; there are {known:?}");
                n_links += 1;
            }
            assert!(!html.contains(" style=") && !html.contains("<script"), "{page}: the policy forbids it");
        }
        assert!(n_links > 100, "{n_links}");
    }

    #[test]
    fn what_a_page_brings_along_is_shown_as_text() {
        let html = document(
            "# A <b> & c\n\n<script>x</script>\n\nv <i>y</i> [z](javascript:x) ![w](x.svg)\n\n|a|\n|--:|\n|b|\n\n    a < b\n",
        );
        assert!(html.contains("&lt;script&gt;x&lt;/script&gt;"), "{html}");
        assert!(html.contains("<p>v &lt;i&gt;y&lt;/i&gt; z w</p>"), "{html}");
        assert!(html.contains("<title>A &lt;b&gt; &amp; c ·") && html.contains("<code>a &lt; b\n</code>"), "{html}");
        assert!(!html.contains("javascript:") && !html.contains("style="), "{html}");
    }
}
