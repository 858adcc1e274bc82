//! What must hold after each step.

use std::collections::BTreeSet;

use super::*;

impl World {
    pub(super) fn check(&mut self) {
        if self.is_over {
            return;
        }
        self.bench.take_notices();
        if self.bench.session.is_finished(self.bench.now) {
            let (replies, unfinished) = self.bench.session.finish();
            replies.into_iter().for_each(|reply| reply.send(Ok(unfinished)));
            self.is_over = true;
        } else if let Some((_, end)) = &self.closing {
            assert!(self.bench.now < *end, "the end did not come in time");
        }
        self.check_calls();
        self.check_streams();
        self.check_gaps();
        self.bench.session.subscriptions.assert_covers();
        self.bench.session.subscriptions.assert_routes();
        let in_flight =
            self.bench.session.in_flight.len(On::Published) + self.bench.session.in_flight.len(On::Released);
        assert!(in_flight <= 3, "the window was exceeded");
        if self.is_over {
            let waiting = self.calls.iter().filter(|call| call.answer.is_some()).count();
            assert_eq!((waiting, self.pending.len(), self.goodbyes.len()), (0, 0, 0), "someone had no answer");
            if let Some((end, _)) = &mut self.closing {
                answered(end).unwrap();
            }
        }
    }

    pub(super) fn check_calls(&mut self) {
        let now = self.bench.now;
        for call in &mut self.calls {
            let outcome = match &mut call.answer {
                None => continue,
                Some(Waiting::Publish(waiting)) => answer(waiting).map(|answer| answer.map(Some)),
                Some(Waiting::Request(waiting)) => answer(waiting).map(|answer| answer.map(|_| None)),
            };
            let has = self.broker.accepted.contains_key(&call.tag);
            match outcome {
                None => {
                    assert!(call.deadline.is_none_or(|deadline| deadline > now), "{} had no answer in time", call.tag);
                    continue;
                }
                Some(Ok(Some(Delivery::Queued))) => call.deadline = None,
                Some(Ok(delivery)) => {
                    assert_eq!(delivery.is_some(), call.request.is_none());
                    // A request may be answered by whatever comes on its filter once it is encoded.
                    assert!(has || (delivery.is_none() && call.is_encoded), "{} did not arrive", call.tag);
                }
                Some(Err(error)) if error.outcome() == Outcome::NotSent => {
                    assert!(!has, "message {} was called unsent, and had arrived", call.tag);
                    call.is_banned = true;
                }
                Some(Err(error)) => assert!(call.is_encoded, "{}: {error}", call.tag),
            }
            call.answer = None;
        }
    }

    /// From when the broker has confirmed a stream's filters until it forgets the session, messages come by one or another.
    /// Before that another's filter may bring them by chance.
    pub(super) fn check_gaps(&mut self) {
        let subscriptions = &self.bench.session.subscriptions;
        let is_confirmed = |filter: &&str| {
            let route = subscriptions.router.get(&Filter::new(*filter).unwrap());
            route.is_some_and(|route| subscriptions.granted(route.filter).is_some())
        };
        for stream in &mut self.streams {
            let brings = stream.filters.iter().all(|filter| self.broker.brings(filter) || filter.starts_with("no/"));
            assert!(brings || !stream.is_held, "nothing brings the messages of {:?}", stream.filters);
            stream.is_held |= brings && stream.filters.iter().all(is_confirmed);
        }
    }

    pub(super) fn check_streams(&mut self) {
        let now = self.bench.now;
        let mut opened = Vec::new();
        self.pending.retain_mut(|pending| match answer(&mut pending.answer) {
            None => {
                assert!(pending.deadline > now, "a subscriber had no answer in time");
                true
            }
            Some(Ok(feed)) => {
                let Feed { events, guard, granted, .. } = feed;
                assert!(granted.iter().all(|(filter, _)| pending.filters.contains(&filter.as_str())));
                let filters = std::mem::take(&mut pending.filters);
                opened.push(Stream {
                    filters,
                    events,
                    guard,
                    retained: pending.retained,
                    seen: BTreeSet::new(),
                    is_held: false,
                });
                false
            }
            Some(Err(_)) => false,
        });
        self.streams.extend(opened);
        self.goodbyes.retain_mut(|goodbye| answer(goodbye).is_none());
        for stream in &mut self.streams {
            while let Ok(event) = stream.events.try_recv() {
                let Ok(mut message) = event else { continue };
                message.take();
                let fits = |filter: &&'static str| Filter::new(*filter).unwrap().matches(message.topic().as_str());
                assert!(stream.filters.iter().any(fits));
                let is_new = stream.seen.insert(tag(message.payload()));
                assert!(is_new || message.qos() == QOS1, "a message came twice");
            }
        }
    }

    /// Nothing is under way: both sides agree on the filters.
    pub(super) fn check_filters(&self) {
        let subscriptions = &self.bench.session.subscriptions;
        let held: BTreeSet<_> = self.broker.subscriptions.keys().map(String::as_str).collect();
        let wanted: BTreeSet<_> = subscriptions.filters.values().map(|shared| shared.filter.as_str()).collect();
        assert!(held.is_subset(&wanted), "the broker holds {held:?}, wanted are {wanted:?}");
        for filter in self.streams.iter().flat_map(|stream| &stream.filters) {
            assert!(self.broker.brings(filter) || filter.starts_with("no/"), "{filter} is not held");
        }
        for (narrow, wide) in held.iter().flat_map(|narrow| held.iter().map(move |wide| (narrow, wide))) {
            let subscriptions = &self.broker.subscriptions;
            let is_needed = !self.bench.session.covers() || narrow == wide || !covers(wide, narrow) || subscriptions[*wide] < subscriptions[*narrow];
            assert!(is_needed, "{narrow} is held beside {wide}");
        }
        assert!(self.goodbyes.is_empty(), "the broker confirmed it, and the caller was not told");
    }
}
