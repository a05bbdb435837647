//! Posts alerts to Tocsin, handles them, and follows the stream.
//!
//! ```text
//! tocsin-client                                 shows each operation once, then follows
//! tocsin-client post                            posts an alert for each job that failed, a JSON object a line of
//!                                               standard input
//! tocsin-client follow CONSUMER TOPIC [AFTER]   handles the events of a topic
//! ```

use std::collections::hash_map::RandomState;
use std::env;
use std::error::Error;
use std::fmt;
use std::hash::BuildHasher;
use std::io::stdin;
use std::net::TcpStream;
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use base64::Engine;
use ring::hmac;
use serde_json::{json, Value};
use tungstenite::client::IntoClientRequest;
use tungstenite::stream::MaybeTlsStream;
use tungstenite::{Message, WebSocket};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// A refusal: a problem document (RFC 9457), or a close of the stream, whose status is 0.
#[derive(Debug)]
struct Refused {
    status: u16,
    code: String,
    detail: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, to: &mut fmt::Formatter) -> fmt::Result {
        write!(to, "{} {}: {}", self.status, self.code, self.detail)
    }
}

impl Error for Refused {}

struct Client {
    base: String,
    secret: String,
    http: ureq::Agent,
}

impl Client {
    fn new(base: String, secret: String) -> Self {
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(Duration::from_secs(30))) // There is none by default.
            .http_status_as_error(false) // As an error, an answer would lose its body.
            .build();
        Client { base, secret, http: config.into() }
    }

    /// Mints a token that is valid for five minutes.
    fn token(&self) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time after 1970").as_secs();
        let claims = json!({
            "sub": "rust", "iss": "tocsin", "aud": "tocsin", "iat": now, "exp": now + 300,
            "scope": "alerts:write alerts:read alerts:manage",
        });
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"JWT"}"#);
        let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.secret.as_bytes());
        let signature = URL_SAFE_NO_PAD.encode(hmac::sign(&key, signed.as_bytes()));
        format!("{signed}.{signature}")
    }

    // --8<-- [start:post]

    /// Posts an alert for each job that failed.
    fn post_all(&self, queue: impl Iterator<Item = Value>) -> Outcome<()> {
        for failed in queue {
            let job = text(&failed["job"]);
            let key = format!("{job}/{}", failed["run"]); // What happened; the same in each attempt.
            let alert = json!({
                "title": format!("{job} failed"), "topic": format!("jobs.{job}"), "severity": "error",
                "attributes": failed,
            });
            match self.call("POST", "/v1/alerts", Some(&key), Some(alert)) {
                Ok(posted) => println!("stored {}", posted["seq"]), // Now remove it from the queue.
                Err(error) => match error.downcast_ref::<Refused>() {
                    Some(refused) if ![401, 403].contains(&refused.status) => {
                        // Put it aside.
                        println!("refused {} {}", refused.status, refused.code);
                    }
                    _ => return Err(error), // The token is wrong, and no alert would be stored.
                },
            }
        }
        Ok(())
    }

    /// Sends a request until it is answered or refused, and returns the answer. Nothing is stored twice: alerts have
    /// their keys, and an action that is repeated changes nothing.
    fn call(&self, method: &str, path: &str, key: Option<&str>, body: Option<Value>) -> Outcome<Value> {
        for attempt in 0.. {
            let mut request = ureq::http::Request::builder()
                .method(method)
                .uri(format!("{}{path}", self.base))
                .header("Authorization", format!("Bearer {}", self.token()));
            if let Some(key) = key {
                request = request.header("Idempotency-Key", key);
            }
            let answer = match &body {
                Some(body) => {
                    let request = request.header("Content-Type", "application/json");
                    self.http.run(request.body(body.to_string())?)
                }
                None => self.http.run(request.body(())?),
            };
            match answer {
                Ok(answer) if answer.status().is_success() => match answer.into_body().read_json() {
                    Ok(value) => return Ok(value),
                    Err(error) => eprintln!("again: {error}"), // It was cut.
                },
                Ok(answer) if ![429, 502, 503, 504].contains(&answer.status().as_u16()) => {
                    return Err(refusal(answer).into());
                }
                Ok(answer) => {
                    eprintln!("again: {}", answer.status());
                    let header = answer.headers().get("Retry-After").and_then(|text| text.to_str().ok());
                    let seconds = header.and_then(|text| text.parse().ok()).unwrap_or(0);
                    sleep(Duration::from_secs(seconds));
                }
                Err(error) => eprintln!("again: {error}"),
            }
            back_off(attempt);
        }
        unreachable!()
    }

    // --8<-- [end:post]

    /// Returns the alerts of a topic, newest first, over all pages.
    fn list(&self, topic: &str) -> Outcome<Vec<Value>> {
        let mut alerts = Vec::new();
        let mut cursor = String::new();
        loop {
            let path = format!("/v1/alerts?limit=2&topic={topic}{cursor}");
            let mut page = self.call("GET", &path, None, None)?;
            alerts.append(page["alerts"].as_array_mut().ok_or("no alerts")?);
            match page["next"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return Ok(alerts),
            }
        }
    }

    // --8<-- [start:follow]

    /// Calls `handle` with each event of a topic, over as many connections as it takes. Without a cursor in `after` it
    /// begins where the consumer ended.
    fn follow(
        &self,
        consumer: &str,
        topic: &str,
        after: Option<String>,
        mut handle: impl FnMut(&Value),
    ) -> Outcome<()> {
        let query = format!("consumer={consumer}&topic={topic}");
        let mut cursor = after;
        let mut attempt = 0;
        loop {
            let mut reached = false;
            let Err(error) = self.follow_once(&query, &mut cursor, &mut reached, &mut handle);
            if error.downcast_ref::<Refused>().is_some_and(|refused| FINAL.contains(&&*refused.code)) {
                return Err(error);
            }
            eprintln!("reconnecting: {error}");
            attempt = if reached { 0 } else { attempt + 1 };
            back_off(attempt);
        }
    }

    /// Follows over one connection, keeps the cursor, and says whether the connection was `reached`.
    fn follow_once(
        &self,
        query: &str,
        cursor: &mut Option<String>,
        reached: &mut bool,
        handle: &mut impl FnMut(&Value),
    ) -> Outcome<std::convert::Infallible> {
        let after = cursor.as_ref().map(|cursor| format!("&after={cursor}")).unwrap_or_default();
        let base = self.base.replacen("http", "ws", 1);
        let mut request = format!("{base}/v1/ws?{query}{after}").into_client_request()?;
        request.headers_mut().insert("Authorization", format!("Bearer {}", self.token()).parse()?);
        request.headers_mut().insert("Sec-WebSocket-Protocol", "tocsin.v1".parse()?);
        let (mut socket, _) = tungstenite::connect(request)?;
        set_timeout(&mut socket, Duration::from_secs(60))?;
        loop {
            let frame: Value = match socket.read()? {
                Message::Text(text) => serde_json::from_str(&text)?,
                Message::Close(close) => return Err(closed(close).into()),
                _ => continue,
            };
            match frame["type"].as_str() {
                Some("welcome") => {
                    *reached = true;
                    let heartbeat = frame["heartbeat_seconds"].as_f64().ok_or("no heartbeat")?;
                    set_timeout(&mut socket, Duration::from_secs_f64(2.5 * heartbeat))?;
                }
                Some("event") => handle(&frame),
                Some("gap" | "reset") => eprintln!("load the list of alerts: {frame}"),
                _ => {}
            }
            if let Some(position) = frame["cursor"].as_str() {
                *cursor = Some(position.to_string());
            }
            if frame["type"] == "event" {
                socket.send(Message::text(json!({"type": "ack", "seq": frame["seq"]}).to_string()))?;
            }
        }
    }

    // --8<-- [end:follow]
}

// --8<-- [start:follow]

/// The reasons of a close after which reconnecting does not help.
const FINAL: [&str; 10] = [
    "scope_missing",
    "topic_forbidden",
    "origin_forbidden",
    "consumer_limit",
    "kicked",
    "invalid_request",
    "bad_message",
    "binary_message",
    "invalid_utf8",
    "message_too_big",
];

// --8<-- [end:follow]

/// Decodes a problem document; what a proxy answers in its stead has no code.
fn refusal(answer: ureq::http::Response<ureq::Body>) -> Refused {
    let status = answer.status().as_u16();
    let problem: Value = answer.into_body().read_json().unwrap_or_default();
    Refused { status, code: text(&problem["code"]).into(), detail: text(&problem["detail"]).into() }
}

fn closed(close: Option<tungstenite::protocol::CloseFrame>) -> Refused {
    let reason = close.map(|close| close.reason.to_string()).unwrap_or_default();
    let code = reason.split(':').next().unwrap_or_default().to_string();
    Refused { status: 0, code, detail: "the stream was closed".into() }
}

/// Ends a read if nothing arrives for so long.
fn set_timeout(socket: &mut WebSocket<MaybeTlsStream<TcpStream>>, silence: Duration) -> Outcome<()> {
    let stream = match socket.get_mut() {
        MaybeTlsStream::Plain(stream) => stream,
        MaybeTlsStream::Rustls(tls) => &mut tls.sock,
        _ => unreachable!("no other TLS is compiled in"),
    };
    Ok(stream.set_read_timeout(Some(silence))?)
}

/// Returns a text, or nothing for what is none.
fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

// --8<-- [start:post]

/// Waits for a random time that doubles with each attempt, up to 30 seconds.
fn back_off(attempt: u32) {
    let longest = (1000 << attempt.min(5)).min(30_000);
    sleep(Duration::from_millis(RandomState::new().hash_one(attempt) % longest));
}

// --8<-- [end:post]

/// Takes as long as the job says.
fn work(event: &Value) {
    let alert = &event["alert"];
    sleep(Duration::from_secs_f64(alert["attributes"]["seconds"].as_f64().unwrap_or_default()));
    println!("event {} {} {}", event["seq"], text(&event["kind"]), text(&alert["title"]));
}

fn main() -> Outcome<()> {
    let tocsin = Client::new(env::var("TOCSIN_URL")?, env::var("TOCSIN_JWT_SECRET")?);
    let mut arguments = env::args().skip(1);
    match (arguments.next().as_deref(), arguments.next(), arguments.next()) {
        (Some("post"), None, None) => {
            let lines = stdin().lines().map_while(Result::ok);
            tocsin.post_all(lines.map_while(|line| serde_json::from_str(&line).ok()))
        }
        (Some("follow"), Some(consumer), Some(topic)) => tocsin.follow(&consumer, &topic, arguments.next(), work),
        _ => tour(&tocsin),
    }
}

/// Shows each operation once.
fn tour(tocsin: &Client) -> Outcome<()> {
    // The key names what happened, so that a second run of the program does not post it again.
    let failed = json!({"title": "Backup failed", "topic": "jobs.backup", "severity": "error"});
    let posted = tocsin.call("POST", "/v1/alerts", Some("backup-2026-11-21"), Some(failed))?;
    println!("posted {}", posted["seq"]);

    let alerts = json!([
        {"title": "Disk is 91 % full", "topic": "jobs.backup", "idempotency_key": "disk-91"},
        {"title": "Disk is 97 % full", "topic": "jobs.backup", "idempotency_key": "disk-97"},
        {"title": "", "topic": "jobs.backup"},
    ]);
    let batch = tocsin.call("POST", "/v1/alerts/batch", None, Some(alerts))?;
    for result in batch["results"].as_array().ok_or("no results")? {
        println!("batch {} {}", result["status"], text(&result["code"]));
    }

    for alert in tocsin.list("jobs.backup")? {
        println!("listed {}", text(&alert["title"]));
    }

    let path = format!("/v1/alerts/{}/acknowledge", posted["id"].as_str().ok_or("no id")?);
    let taken = tocsin.call("POST", &path, None, None)?;
    println!("status {} {}", text(&taken["status"]), text(&taken["status_by"]));

    let wrong = json!({"title": "A title", "topic": "Not a topic"});
    match tocsin.call("POST", "/v1/alerts", Some("title-1"), Some(wrong)) {
        Err(error) => match error.downcast_ref::<Refused>() {
            Some(refused) => println!("refused {} {}", refused.status, refused.code),
            None => return Err(error),
        },
        Ok(_) => return Err("not refused".into()),
    }

    tocsin.follow("tour", "jobs.backup", Some("0".into()), work)
}
