//! What a session is told from outside: a bounded channel with one sender and one receiver.
//!
//! Every session has one and hardly ever a call in it. A channel of tokio's takes 900 bytes for that, this one 100.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Why a call was not taken; it comes back.
#[derive(Debug, PartialEq, Eq)]
pub enum CallError<T> {
    /// So many wait already.
    Full(T),
    /// The receiver is gone.
    Closed(T),
}

/// Makes calls. Dropping it ends the channel.
#[derive(Debug)]
pub struct Caller<T>(Arc<Channel<T>>);

/// Takes calls.
#[derive(Debug)]
pub struct Calls<T>(Arc<Channel<T>>);

#[derive(Debug)]
struct Channel<T> {
    state: Mutex<State<T>>,
    changed: Notify,
}

#[derive(Debug)]
struct State<T> {
    waiting: VecDeque<T>,
    limit: usize,
    /// One of the two ends is gone.
    is_closed: bool,
}

/// A channel in which up to `limit` calls wait.
pub fn channel<T>(limit: usize) -> (Caller<T>, Calls<T>) {
    let state = Mutex::new(State { waiting: VecDeque::new(), limit, is_closed: false });
    let channel = Arc::new(Channel { state, changed: Notify::new() });
    (Caller(channel.clone()), Calls(channel))
}

impl<T> Caller<T> {
    /// Makes a call.
    ///
    /// # Errors
    /// The call, if it was not taken.
    pub fn call(&self, call: T) -> Result<(), CallError<T>> {
        let mut state = self.0.state.lock();
        if state.is_closed {
            return Err(CallError::Closed(call));
        }
        if state.waiting.len() >= state.limit {
            return Err(CallError::Full(call));
        }
        state.waiting.push_back(call);
        drop(state);
        self.0.changed.notify_one();
        Ok(())
    }
}

impl<T> Calls<T> {
    /// The next call; `None` when the caller is gone and no call is left. Cancel safe.
    pub async fn next(&mut self) -> Option<T> {
        loop {
            {
                let mut state = self.0.state.lock();
                let call = state.take();
                if call.is_some() || state.is_closed {
                    return call;
                }
            }
            self.0.changed.notified().await;
        }
    }

    /// The next call, if it is there.
    pub fn try_next(&mut self) -> Option<T> {
        self.0.state.lock().take()
    }
}

impl<T> State<T> {
    fn take(&mut self) -> Option<T> {
        let call = self.waiting.pop_front();
        if self.waiting.is_empty() {
            self.waiting = VecDeque::new();
        }
        call
    }
}

impl<T> Drop for Caller<T> {
    fn drop(&mut self) {
        self.0.state.lock().is_closed = true;
        self.0.changed.notify_one();
    }
}

impl<T> Drop for Calls<T> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.is_closed = true;
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        // Outside: what a call brings may do anything when it goes.
        drop(waiting);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn calls_come_in_order_up_to_the_limit() {
        let (caller, mut calls) = channel(2);
        assert_eq!((caller.call(1), caller.call(2), caller.call(3)), (Ok(()), Ok(()), Err(CallError::Full(3))));
        assert_eq!((calls.try_next(), calls.next().await, calls.try_next()), (Some(1), Some(2), None));
        let waiting = tokio::spawn(async move { (calls.next().await, calls.next().await) });
        tokio::task::yield_now().await;
        caller.call(4).unwrap();
        drop(caller);
        assert_eq!(waiting.await.unwrap(), (Some(4), None));
    }

    #[tokio::test]
    async fn each_end_sees_that_the_other_is_gone() {
        let (caller, mut calls) = channel::<u8>(1);
        caller.call(1).unwrap();
        drop(caller);
        assert_eq!((calls.next().await, calls.next().await), (Some(1), None));
        let (caller, calls) = channel::<u8>(1);
        drop(calls);
        assert_eq!(caller.call(1), Err(CallError::Closed(1)));
    }
}
