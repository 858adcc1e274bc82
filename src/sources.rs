//! Which of the things that a task waits for has woken it.
//!
//! A task is told that one of them is ready, not which. If it asked them all, those that have nothing would cost more than
//! the one that has.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::task::{Context, Wake, Waker};

/// One thing that a task waits for. It is asked with the [`context`](Self::context) of its own, until it has nothing more.
pub(crate) struct Source {
    flag: Arc<Flag>,
    waker: Waker,
}

struct Flag {
    may_be_ready: AtomicBool,
    task: Waker,
}

impl Source {
    /// May be ready: it was never asked.
    pub(crate) fn new(task: &Waker) -> Self {
        let flag = Arc::new(Flag { may_be_ready: AtomicBool::new(true), task: task.clone() });
        Self { waker: flag.clone().into(), flag }
    }

    /// Whether it may have something. Whoever is told so asks until there is nothing, or says that there is
    /// [more](Self::note_more): what has not been asked to its end does not wake the task.
    pub(crate) fn take_ready(&self) -> bool {
        // Read first: mostly it is not, and a swap costs as much as a lock.
        self.flag.may_be_ready.load(Ordering::Relaxed) && self.flag.may_be_ready.swap(false, Ordering::Acquire)
    }

    /// It was asked, and there may be more.
    pub(crate) fn note_more(&self) {
        self.flag.may_be_ready.store(true, Ordering::Relaxed);
    }

    pub(crate) fn context(&self) -> Context<'_> {
        Context::from_waker(&self.waker)
    }

    pub(crate) fn is_for(&self, task: &Waker) -> bool {
        self.flag.task.will_wake(task)
    }
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Before the task is woken, which may look at once.
        self.may_be_ready.store(true, Ordering::Release);
        self.task.wake_by_ref();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc;
    use tokio_test::{assert_pending, assert_ready};

    #[test]
    fn only_the_source_that_woke_the_task_is_asked() {
        let mut task = tokio_test::task::spawn(());
        let [first, second] = task.enter(|cx, _| [Source::new(cx.waker()), Source::new(cx.waker())]);
        assert!(first.take_ready() && second.take_ready(), "each is asked once");
        let (sender, mut receiver) = mpsc::channel(1);
        assert_pending!(receiver.poll_recv(&mut second.context()));
        assert!(!first.take_ready() && !second.take_ready() && !task.is_woken());
        sender.try_send(7).unwrap();
        assert!(task.is_woken() && !first.take_ready() && second.take_ready() && !second.take_ready());
        assert_eq!(assert_ready!(receiver.poll_recv(&mut second.context())), Some(7));
        second.note_more();
        assert!(second.take_ready());
    }

    #[test]
    fn a_source_knows_its_task() {
        let (mut task, mut other) = (tokio_test::task::spawn(()), tokio_test::task::spawn(()));
        let source = task.enter(|cx, _| Source::new(cx.waker()));
        assert!(task.enter(|cx, _| source.is_for(cx.waker())));
        assert!(!other.enter(|cx, _| source.is_for(cx.waker())));
    }
}
