//! Calling an address: one signed POST, as with webhooks; repeated only while nobody is reached.

use super::Order;
use crate::retry::FailureKind;
use crate::webhook::Webhook;
use evidence::Time;
use std::time::Duration;

/// Between two attempts to reach somebody. The caller's timeout ends them.
const PAUSE: Duration = Duration::from_millis(300);

pub(super) async fn call(webhook: &Webhook, order: &Order<'_>, now: Time) -> Result<String, String> {
    let body = serde_json::to_vec(order).expect("a finding has string keys only");
    let about = order.finding.map_or_else(|| "test".to_owned(), |finding| finding.id.to_string());
    let key = format!("killswitch:{}:{about}", order.kill_switch);
    loop {
        match webhook.post(&body, &key, now).await {
            Ok(status) => return Ok(format!("{} answered {status}", webhook.place())),
            Err(failure) => match failure.kind {
                FailureKind::Unavailable | FailureKind::Busy { .. } => tokio::time::sleep(PAUSE).await,
                FailureKind::Refused => return Err(failure.reason),
            },
        }
    }
}
