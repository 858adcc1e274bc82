//! When to ask the peer for a sign of life, and when to stop believing in it.

use std::time::Duration;

use tokio::time::Instant;

/// Watches one connection. All that counts is when bytes last went and came.
#[derive(Debug)]
pub(crate) struct KeepAlive {
    /// Zero: off.
    interval: Duration,
    last_sent: Instant,
    last_received: Instant,
    /// When a PINGREQ was asked for, if nothing has come since.
    asked: Option<Instant>,
    /// Without that, silence is this side's own doing.
    is_reading: bool,
    /// There is nothing to do before this. It moves on when it has come, not with each packet.
    look_at: Instant,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Pulse {
    Fine,
    /// Send a PINGREQ.
    Ask,
    /// The peer has been silent for one and a half intervals.
    Dead,
}

impl KeepAlive {
    pub(crate) fn new(interval: Duration, now: Instant) -> Self {
        let look_at = now + interval;
        Self { interval, last_sent: now, last_received: now, asked: None, is_reading: true, look_at }
    }

    pub(crate) fn handle_sent(&mut self, now: Instant) {
        self.last_sent = now;
    }

    pub(crate) fn handle_received(&mut self, now: Instant) {
        self.last_received = now;
        if self.asked.take().is_some() {
            self.look_at = self.due();
        }
    }

    /// Whether bytes are read at all. While they are not, the peer is sent its packet per interval, and believed to be
    /// there.
    pub(crate) fn handle_reading(&mut self, is_reading: bool, now: Instant) {
        if is_reading && self.is_reading {
            return;
        }
        if is_reading {
            self.asked = None;
        }
        self.last_received = now;
        self.is_reading = is_reading;
        self.look_at = self.due();
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) -> Pulse {
        if now < self.look_at || self.interval.is_zero() {
            return Pulse::Fine;
        }
        let pulse = match self.due() <= now {
            false => Pulse::Fine,
            true if self.asked.is_some() && self.is_reading => Pulse::Dead,
            true => {
                self.asked = Some(now);
                Pulse::Ask
            }
        };
        self.look_at = self.due();
        pulse
    }

    /// When to look again, if not before.
    pub(crate) fn next(&self) -> Option<Instant> {
        (!self.interval.is_zero()).then_some(self.look_at)
    }

    /// When there is something to do, unless something comes or goes before.
    fn due(&self) -> Instant {
        // MQTT-3.1.2-23 asks for a packet per interval; a peer that hears from us but does not answer is also asked.
        match self.asked {
            // Half an interval for the answer even where the question came late, after this process had been stopped.
            Some(asked) if self.is_reading => {
                (self.last_received + self.interval * 3 / 2).max(asked + self.interval / 2)
            }
            Some(asked) => asked + self.interval,
            None => self.last_sent.min(self.last_received) + self.interval,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(10);

    #[test]
    fn an_idle_line_is_asked_once_per_interval() {
        let start = Instant::now();
        let mut keep_alive = KeepAlive::new(INTERVAL, start);
        let mut now = start;
        for _ in 0..5 {
            now += INTERVAL;
            assert_eq!(keep_alive.next(), Some(now));
            assert_eq!(keep_alive.handle_timeout(now), Pulse::Ask);
            keep_alive.handle_sent(now);
            keep_alive.handle_received(now);
            assert_eq!(keep_alive.handle_timeout(now), Pulse::Fine);
        }
    }

    #[test]
    fn a_silent_peer_is_dead_after_one_and_a_half_intervals_of_its_last_byte() {
        let start = Instant::now();
        let mut keep_alive = KeepAlive::new(INTERVAL, start);
        keep_alive.handle_received(start + INTERVAL / 2);
        assert_eq!(keep_alive.handle_timeout(start + INTERVAL), Pulse::Ask);
        keep_alive.handle_sent(start + INTERVAL);
        assert_eq!(keep_alive.handle_timeout(start + INTERVAL * 2 - Duration::from_millis(1)), Pulse::Fine);
        assert_eq!(keep_alive.handle_timeout(start + INTERVAL * 2), Pulse::Dead);
    }

    #[test]
    fn a_peer_that_only_listens_is_asked_too() {
        let start = Instant::now();
        let mut keep_alive = KeepAlive::new(INTERVAL, start);
        keep_alive.handle_sent(start + INTERVAL - Duration::from_secs(1));
        assert_eq!(keep_alive.handle_timeout(start + INTERVAL), Pulse::Ask);
    }

    #[test]
    fn a_peer_that_is_not_read_from_is_asked_once_per_interval_and_believed_until_it_is_read_from_again() {
        let start = Instant::now();
        let mut keep_alive = KeepAlive::new(INTERVAL, start);
        let mut now = start;
        for _ in 0..5 {
            now += INTERVAL;
            keep_alive.handle_reading(false, now);
            assert_eq!(keep_alive.handle_timeout(now), Pulse::Ask);
            assert_eq!(keep_alive.next(), Some(now + INTERVAL), "whether it could be written or not");
            keep_alive.handle_sent(now);
        }
        now += INTERVAL / 2;
        keep_alive.handle_reading(true, now);
        assert_eq!(keep_alive.next(), Some(now + INTERVAL / 2));
        now += INTERVAL / 2;
        assert_eq!(keep_alive.handle_timeout(now), Pulse::Ask);
        assert_eq!(keep_alive.handle_timeout(now + INTERVAL / 2), Pulse::Fine);
        assert_eq!(keep_alive.handle_timeout(now + INTERVAL), Pulse::Dead);
    }

    #[test]
    fn zero_switches_it_off() {
        let start = Instant::now();
        let mut keep_alive = KeepAlive::new(Duration::ZERO, start);
        assert_eq!(keep_alive.next(), None);
        assert_eq!(keep_alive.handle_timeout(start + INTERVAL * 100), Pulse::Fine);
    }
}
