//! `/docs`: a reader for the description of this API, and what all operations have in common.
//!
//! The reader is Swagger UI, as its project publishes it. It is compiled in and asks this server
//! only. Of the readers that were looked at it is the one that needs no inline scripts and has half
//! the size of the others that do not.

use crate::caching::gzip;
use crate::middleware::CONTENT_SECURITY_POLICY;
use crate::problem::ProblemDetails;
use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use evidence::{Kind, Severity};
use flate2::Compression;
use serde_json::{Value, json};
use std::sync::OnceLock;
use utoipa::PartialSchema as _;
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Content, OpenApi, Ref, RefOr, Response as DocumentedResponse};

const HTML: &str = include_str!("page/docs.html");
const SCRIPT: &str = include_str!("page/docs.js");

/// A file that is compressed once, when it is asked for first, because that takes a tenth of a
/// second.
struct LargeFile {
    path: &'static str,
    content_type: &'static str,
    content: &'static [u8],
    compressed: OnceLock<Bytes>,
}

static LARGE_FILES: [LargeFile; 2] = [
    LargeFile {
        path: "/page/vendor/swagger-ui-bundle.js",
        content_type: "text/javascript; charset=utf-8",
        content: include_bytes!("page/vendor/swagger-ui-bundle.js"),
        compressed: OnceLock::new(),
    },
    LargeFile {
        path: "/page/vendor/swagger-ui.css",
        content_type: "text/css; charset=utf-8",
        content: include_bytes!("page/vendor/swagger-ui.css"),
        compressed: OnceLock::new(),
    },
];

pub(crate) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    let small = Router::new().route("/docs", get(reader)).route("/page/docs.js", get(script));
    LARGE_FILES.iter().fold(small, |router, file| router.route(file.path, get(|headers| large_file(file, headers))))
}

/// Swagger UI has icons as `data:` in its style sheet.
async fn reader() -> impl IntoResponse {
    let policy = CONTENT_SECURITY_POLICY.replace("img-src 'self'", "img-src 'self' data:");
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8".to_owned()),
        (header::CACHE_CONTROL, "no-cache".to_owned()),
        (header::CONTENT_SECURITY_POLICY, policy),
    ];
    (headers, HTML)
}

async fn script() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/javascript; charset=utf-8"), (header::CACHE_CONTROL, "no-cache")], SCRIPT)
}

async fn large_file(file: &'static LargeFile, headers: HeaderMap) -> Response {
    let kept =
        [(header::CONTENT_TYPE, file.content_type), (header::CACHE_CONTROL, "max-age=86400"), (header::VARY, "accept-encoding")];
    let accepted = headers.get(header::ACCEPT_ENCODING).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !accepted.split(',').any(|one| one.trim() == "gzip") {
        return (kept, file.content).into_response();
    }
    match tokio::task::spawn_blocking(|| file.compressed.get_or_init(|| gzip(file.content, Compression::best())).clone()).await {
        Ok(compressed) => (kept, [(header::CONTENT_ENCODING, "gzip")], compressed).into_response(),
        Err(error) => ProblemDetails::internal(&error).into_response(),
    }
}

/// Adds to each operation what any of them may answer, and how a token is sent.
pub(crate) fn complete(document: &mut OpenApi) {
    let described = |scheme, text: &str| {
        let mut http = Http::new(scheme);
        http.description = Some(text.to_owned());
        SecurityScheme::Http(http)
    };
    let components = document.components.get_or_insert_default();
    components.schemas.entry("Problem".into()).or_insert_with(ProblemDetails::schema);
    let text =
        "A token of `slashwatch token new`. Without one, what everybody may see is shown, unless `api.read_needs_token` is set.";
    components.add_security_scheme("token", described(HttpAuthScheme::Bearer, text));
    components
        .add_security_scheme("password", described(HttpAuthScheme::Basic, "A token as the password of a user with any name."));
    document.security = Some(vec![
        SecurityRequirement::default(),
        SecurityRequirement::new("token", Vec::<String>::new()),
        SecurityRequirement::new("password", Vec::<String>::new()),
    ]);
    for (path, item) in &mut document.paths.paths {
        let Some(operation) = item.get.as_mut() else { continue };
        for parameter in operation.parameters.iter_mut().flatten() {
            if let RefOr::T(parameter) = parameter
                && let Some(values) = values_of(path, &parameter.name)
            {
                parameter.schema = Some(serde_json::from_value(values).expect("a schema"));
            }
        }
        add(operation, "401", "the token is missing, wrong or expired");
        add(operation, "403", "the host is none of this API, or watched keys are not shown to this client");
        add(operation, "413", "the body is too long");
        add(operation, "414", "the address is too long");
        add(operation, "429", "this address or token sends too many requests; wait for `Retry-After` seconds");
    }
}

/// Which values a parameter may have, as a JSON schema. Handlers read all parameters as text, so
/// that an error can name the one that is wrong.
fn values_of(path: &str, name: &str) -> Option<Value> {
    let number =
        |least: u64, greatest: u64| json!({"type": "integer", "format": "uint64", "minimum": least, "maximum": greatest});
    let text = |pattern: &str| json!({"type": "string", "pattern": pattern});
    let words = |words: &[&str]| json!({"type": "string", "enum": words});
    Some(match (path, name) {
        ("/v1/evidence/{id}", "id") => text(r"^0x[0-9a-fA-F]{64}(\.json|\.ssz)?$"),
        (_, "id" | "root" | "incident") => text("^0x[0-9a-fA-F]{64}$"),
        ("/v1/validators/{validator}", "validator") => text("^([0-9]{1,19}|0x[0-9a-fA-F]{96})$"),
        ("/v1/validators/{validator}", "limit") => number(1, 64),
        (_, "limit") => number(1, 1000),
        ("/v1/participation", "slots") => number(1, 128),
        (
            _,
            "cursor" | "after" | "since_slot" | "until_slot" | "before_epoch" | "validator" | "missed_in_a_row" | "slot"
            | "epoch",
        ) => number(0, u64::MAX),
        (_, "order") => words(&["asc", "desc"]),
        (_, "severity") => words(&Severity::ALL.map(|severity| severity.as_str())),
        (_, "kind") => json!({"type": "string", "enum": Kind::all().map(|kind| kind.to_string()).collect::<Vec<_>>()}),
        (_, "included") => words(&["true", "false"]),
        (_, "format") => words(&["json", "ssz"]),
        (_, "label") => text("^[^=]+=.*$"),
        _ => return None,
    })
}

fn add(operation: &mut Operation, status: &str, description: &str) {
    let problem = Content::new(Some(Ref::from_schema_name("Problem")));
    let mut response = DocumentedResponse::new(description);
    response.content.insert("application/problem+json".into(), RefOr::T(problem));
    operation.responses.responses.entry(status.into()).or_insert(RefOr::T(response));
}
