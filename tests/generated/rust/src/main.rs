//! Uses the client that openapi-generator makes.

#![deny(warnings)]

use std::{env, fmt::Debug, future::Future, time::Duration};

use openapi::apis::alerts_api::{acknowledge_alert, get_alerts, post_alert, post_batch};
use openapi::apis::configuration::Configuration;
use openapi::apis::stream_api::get_events;
use openapi::apis::Error;
use openapi::models::{problem::Code, AlertIn, BatchItem, EventKind, Problem, Severity};

const TOPIC: &str = "jobs.backup";

fn topics() -> Option<Vec<String>> {
    Some(vec![TOPIC.to_owned()])
}

/// Calls until an answer arrives: the connection may break, and a request has its key.
async fn retried<T, E: Debug, F: Future<Output = Result<T, Error<E>>>>(call: impl Fn() -> F) -> Result<T, Error<E>> {
    for _ in 0..5 {
        match call().await {
            Err(Error::Reqwest(error)) => eprintln!("{error}"),
            answer => return answer,
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    call().await
}

/// Returns an alert of a batch.
fn item(title: &str, key: Option<&str>) -> BatchItem {
    BatchItem {
        topic: Some(TOPIC.to_owned()),
        idempotency_key: key.map(|key| Some(key.to_owned())),
        ..BatchItem::new(title.to_owned())
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let tocsin = Configuration {
        base_path: env::var("TOCSIN_URL")?,
        bearer_access_token: Some(env::var("TOCSIN_TOKEN")?),
        ..Configuration::new()
    };

    let failed = AlertIn {
        topic: Some(TOPIC.to_owned()),
        severity: Some(Severity::Error),
        ..AlertIn::new("Backup failed".to_owned())
    };
    let posted = retried(|| post_alert(&tocsin, failed.clone(), Some("backup-2026-11-21"))).await?;
    println!("posted {} {}", posted.seq, posted.severity.unwrap());

    let batch =
        vec![item("Disk is 91 % full", Some("disk-91")), item("Disk is 97 % full", Some("disk-97")), item("", None)];
    for result in post_batch(&tocsin, batch, Some("disks-2026-11-21")).await?.results {
        match result.code.flatten() {
            Some(code) => println!("batch {} {code}", result.status),
            None => println!("batch {} {}", result.status, result.seq.flatten().unwrap()),
        }
    }

    let mut cursor = None;
    loop {
        let after = cursor.as_deref();
        let page =
            get_alerts(&tocsin, topics(), None, None, None, None, None, None, None, None, None, None, after, Some(2))
                .await?;
        for alert in page.alerts {
            println!("listed {}", alert.title);
        }
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }

    let taken = acknowledge_alert(&tocsin, &posted.id.to_string()).await?;
    println!("status {} {}", taken.status, taken.status_by.unwrap());

    let wrong = AlertIn { topic: Some("Not a topic".to_owned()), ..AlertIn::new("A title".to_owned()) };
    match post_alert(&tocsin, wrong, None).await {
        Err(Error::ResponseError(refused)) => {
            // The generated enumeration of errors has the first variant whose body fits, whatever the status.
            let problem: Problem = serde_json::from_str(&refused.content)?;
            let code = serde_json::to_value(problem.code)?;
            let is_invalid = problem.code == Code::InvalidRequest;
            println!("refused {} {} {is_invalid}", problem.status, code.as_str().unwrap());
        }
        other => panic!("{other:?}"),
    }

    let (mut after, mut connection, mut kind) = ("0".to_owned(), None, None);
    while kind != Some(EventKind::AlertResolved) {
        let on = connection.as_deref();
        let answer = retried(|| get_events(&tocsin, Some(&after), topics(), None, None, Some(20.0), on, None)).await?;
        for event in answer.events {
            println!("event {} {} {}", event.seq, event.kind, event.alert.title);
            kind = Some(event.kind);
        }
        (after, connection) = (answer.next, Some(answer.connection.to_string()));
    }
    Ok(())
}
