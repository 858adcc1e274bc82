//! The client's end of a connection to the broker in memory.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{ready, Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::coop::poll_proceed;

use super::hub::End;
use super::Shared;

/// A stream of bytes whose other end is the broker itself. Dropping it hangs up.
pub(super) struct Line {
    shared: Arc<Shared>,
    link: u64,
}

impl Line {
    pub(super) fn open(shared: Arc<Shared>) -> io::Result<Self> {
        let link = shared.hub().accept();
        match link {
            Some(link) => Ok(Self { shared, link }),
            None => Err(io::ErrorKind::ConnectionRefused.into()),
        }
    }
}

impl AsyncRead for Line {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // As a socket does: nobody's turn is longer because nothing waits for a network.
        let turn = ready!(poll_proceed(cx));
        let bytes = ready!(self.shared.hub().poll_read(self.link, buf.remaining(), cx)).map_err(reset)?;
        turn.made_progress();
        buf.put_slice(&bytes);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Line {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let turn = ready!(poll_proceed(cx));
        let written = ready!(self.shared.hub().poll_write(self.link, bytes, cx)).map_err(reset)?;
        turn.made_progress();
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shared.hub().detach(self.link, End::Close);
        Poll::Ready(Ok(()))
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.shared.hub().hang_up(self.link);
    }
}

fn reset(_: End) -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}
