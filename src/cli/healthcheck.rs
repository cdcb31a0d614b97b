//! `sessiond healthcheck`: asks a running service whether it can serve.

use std::time::Duration;

use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::config::Listen;

/// How long a health check waits.
const HEALTHCHECK_TIMEOUT: Duration = Duration::from_secs(3);

/// Asks for /readyz, which asks the store.
pub(super) async fn healthcheck(listen: &Listen) -> Result<(), String> {
    let failed = |error: &dyn std::fmt::Display| format!("{listen} is not healthy: {error}");
    let asked = async {
        match listen {
            Listen::Tcp(address) => ready(TcpStream::connect(address).await.map_err(|error| failed(&error))?).await,
            Listen::Unix(path) => ready(UnixStream::connect(path).await.map_err(|error| failed(&error))?).await,
        }
        .map_err(|error| failed(&error))
    };
    let status = timeout(HEALTHCHECK_TIMEOUT, asked).await.map_err(|_| failed(&"no answer in time"))??;
    if status.is_success() { Ok(()) } else { Err(failed(&status)) }
}

async fn ready(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> hyper::Result<hyper::StatusCode> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = hyper::Request::get("/readyz").header("host", "localhost").body(Empty::<bytes::Bytes>::new());
    Ok(sender.send_request(request.expect("this is a request")).await?.status())
}
