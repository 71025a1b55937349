//! Delivery of alerts to people and programs: routes, their sinks, and retries until each delivery
//! has ended.
//!
//! The durable outbox of [`evidence::Store`] holds one delivery for each finding and route. A
//! [`Dispatcher`] takes the deliveries that are due, sends them and records the result of each:
//! delivered, retried at a later time, or given up with the reason. It only reads what has been
//! recorded, so a receiver that is slow or down delays only its own route.
//!
//! A route for people merges what belongs together into few messages ([`merge`]). A webhook gets
//! each finding by itself.
//!
//! What a receiver can rely on:
//!
//! - Findings about watched keys come first, then new offenders, then the rest
//!   ([`evidence::Priority`]).
//! - Each finding of the route's severity or worse arrives **at least once**. If the process is
//!   killed after the receiver's answer and before the result is recorded, the delivery is sent
//!   again, with the same `Idempotency-Key` and `delivery`.
//! - Each message has a signature over time and body ([`webhook`]), so the receiver can refuse
//!   forged and replayed messages.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod context;
mod dispatch;
mod error;
mod exec;
mod heartbeat;
pub mod killswitch;
mod merge;
mod preview;
mod quiet;
mod retry;
mod route;
mod secret;
mod sink;
mod text;

pub use context::{Context, NamedKeys, NetworkName, SwitchNote, SwitchNotes};
pub use dispatch::{Dispatcher, RouteCounts};
pub use error::AlertError;
pub use heartbeat::{Heartbeat, HeartbeatConfig};
pub use quiet::QuietHoursConfig;
pub use retry::RetryPolicy;
pub use route::{Route, RouteConfig, Routes, TestReport, preview_text};
pub use secret::{Secret, SecretSource, problem as secret_problem};
pub use sink::alertmanager::AlertmanagerConfig;
pub use sink::discord::DiscordConfig;
pub use sink::email::{EmailConfig, Encryption};
pub use sink::ntfy::NtfyConfig;
pub use sink::pagerduty::PagerDutyConfig;
pub use sink::program::{ProgramConfig, program_problem};
pub use sink::slack::SlackConfig;
pub use sink::telegram::TelegramConfig;
pub use sink::webhook::{self, WebhookConfig};
pub use sink::{SinkConfig, is_http};
