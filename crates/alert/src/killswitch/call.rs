//! Calling an address: one signed POST, as with webhooks; again while nobody is reached or the receiver has trouble of its own
//! (408, 429 and 5xx), until the caller's timeout. A receiver that says no (any other status but 2xx) is believed.
//!
//! Each attempt is signed with the time at which it is made: receivers refuse what is older than some minutes.

use super::Order;
use crate::retry::FailureKind;
use crate::webhook::Webhook;
use evidence::Time;
use std::time::{Duration, Instant};

/// After the first failed attempt; doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(300);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// `now` is the wall clock at the beginning; `longest_wait` bounds what a receiver may ask for by `Retry-After`. `last_failure` is
/// there for whoever drops this before its end.
pub(super) async fn call(
    webhook: &Webhook,
    order: &Order<'_>,
    now: Time,
    longest_wait: Duration,
    last_failure: &mut Option<String>,
) -> Result<String, String> {
    let body = serde_json::to_vec(order).expect("a finding has string keys only");
    let about = order.finding.map_or_else(|| "test".to_owned(), |finding| finding.id.to_string());
    let key = format!("killswitch:{}:{about}", order.kill_switch);
    let (begun, mut pause) = (Instant::now(), FIRST_PAUSE);
    loop {
        let failure = match webhook.post(&body, &key, now.after(begun.elapsed())).await {
            Ok(status) => return Ok(format!("{} answered {status}", webhook.place())),
            Err(failure) => failure,
        };
        let wait = match failure.kind {
            FailureKind::Refused => return Err(failure.reason),
            FailureKind::Unavailable => pause,
            FailureKind::Busy { retry_after } => retry_after.map_or(pause, |asked| asked.min(longest_wait)),
        };
        *last_failure = Some(failure.reason);
        pause = (pause * 2).min(LONGEST_PAUSE);
        tokio::time::sleep(wait).await;
    }
}
