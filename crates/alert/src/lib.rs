//! Telling people and programs: routes, their sinks, and retrying until told.
//!
//! The durable outbox of [`evidence::Store`] holds one delivery per finding and route. A [`Dispatcher`] takes what is due,
//! sends it and writes down how it went: delivered, try again at a later time, or given up with the reason. It only ever
//! reads what has been recorded, so a receiver that is slow or away delays nothing but its own route.
//!
//! What a receiver can rely on:
//!
//! - watched keys first, then new offenders, then the rest ([`evidence::Priority`]);
//! - each finding of the route's severity or worse, **at least once**: killed between the receiver's answer and our note of
//!   it, we send again, with the same `Idempotency-Key` and `delivery`;
//! - a signature over time and body ([`webhook`]), so that it can refuse what is forged or replayed.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod context;
mod dispatch;
mod error;
pub mod killswitch;
mod retry;
mod route;
mod secret;
pub mod webhook;

pub use context::{Context, NetworkName, SwitchNote, SwitchNotes};
pub use dispatch::{Dispatcher, RouteCounts};
pub use error::AlertError;
pub use retry::Policy;
pub use route::{Attempt, Route, RouteConfig, Routes, SinkConfig, TestReport};
pub use secret::{Secret, SecretSource};
