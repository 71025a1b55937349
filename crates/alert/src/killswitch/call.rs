//! A kill switch that calls an address: one signed POST, as with webhooks. It is sent again, until
//! the caller's timeout, if the receiver is not reached or has a temporary problem (408, 429 and
//! 5xx). Any other status except 2xx is a refusal and final.
//!
//! Each attempt is signed with its own time, because receivers refuse a timestamp that is some
//! minutes old.

use super::SwitchOrder;
use crate::retry::{FailureKind, RetryPolicy};
use crate::sink::Sink as _;
use crate::sink::webhook::Webhook;
use evidence::Time;
use std::time::{Duration, Instant};

/// Calls the address until it succeeds or is refused. `now` is the wall clock at the beginning.
/// `longest_wait` bounds the wait that a receiver may request with `Retry-After`. `last_failure`
/// receives the reason of each failed attempt, for a caller that drops this future before its end.
pub(super) async fn call(
    webhook: &Webhook,
    order: &SwitchOrder<'_>,
    now: Time,
    longest_wait: Duration,
    last_failure: &mut Option<String>,
) -> Result<String, String> {
    let body = serde_json::to_vec(order).expect("a finding has string keys only");
    let about = order.finding.map_or_else(|| "test".to_owned(), |finding| finding.id.to_string());
    let key = format!("killswitch:{}:{about}", order.kill_switch);
    let (begun, mut n_failures) = (Instant::now(), 0);
    loop {
        let failure = match webhook.post(&body, &key, now.after(begun.elapsed())).await {
            Ok(status) => return Ok(format!("{} answered {status}", webhook.place())),
            Err(failure) => failure,
        };
        n_failures += 1;
        let pause = RetryPolicy::DEFAULT.order_pauses.pause(n_failures);
        let wait = match failure.kind {
            FailureKind::Refused => return Err(failure.reason),
            FailureKind::Unavailable => pause,
            FailureKind::Busy { retry_after } => retry_after.map_or(pause, |asked| asked.min(longest_wait)),
        };
        *last_failure = Some(failure.reason);
        tokio::time::sleep(wait).await;
    }
}
