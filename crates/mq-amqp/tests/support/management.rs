//! The broker's management API, for users and rights that AMQP cannot make.

use std::{env, time::Duration};

use mq_testkit::{Address, Check, Failure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// The RabbitMQ of `compose/` has this API; somebody's own need not.
pub fn management() -> Address {
    match env::var("MQ_RABBITMQ_MANAGEMENT") {
        Ok(url) => Address::Here(url),
        Err(_) => Address::Missing("MQ_RABBITMQ_MANAGEMENT is not set".to_owned()),
    }
}

/// Makes a user, or gives it another password.
pub async fn set_user(url: &str, user: &str, password: &str) -> Check {
    let body = serde_json::json!({ "password": password, "tags": "" });
    call(url, "PUT", &format!("/api/users/{user}"), &body.to_string()).await
}

/// Lets a user do all in the default virtual host with what begins with this, and publish to it.
pub async fn permit(url: &str, user: &str, prefix: &str) -> Check {
    let names = format!("^({prefix}.*|amq\\.default)$");
    let body = serde_json::json!({ "configure": names, "write": names, "read": names });
    let path = format!("/api/permissions/%2f/{user}");
    call(url, "PUT", &path, &body.to_string()).await
}

pub async fn delete_user(url: &str, user: &str) -> Check {
    call(url, "DELETE", &format!("/api/users/{user}"), "").await
}

async fn call(url: &str, method: &str, path: &str, body: &str) -> Check {
    let host = url.trim_start_matches("http://").trim_end_matches('/');
    // guest:guest
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Basic Z3Vlc3Q6Z3Vlc3Q=\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let exchange = async {
        let mut stream = TcpStream::connect(host).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = timeout(Duration::from_secs(20), exchange).await??;
    let status = answer.split(' ').nth(1).unwrap_or_default();
    if status.starts_with('2') {
        return Ok(());
    }
    Err(Failure::new(format!("{method} {path}: {status}")))
}
