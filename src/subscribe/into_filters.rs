//! The forms in which filters may be given.

use crate::{Error, Filter, Topic};

/// One filter or several: a text, a [`Filter`], a [`Topic`], or an array, a slice or a `Vec` of them, owned or lent.
///
/// ```no_run
/// # async fn example(agent: mqtt_agent::Agent) -> Result<(), mqtt_agent::Error> {
/// let one = agent.subscribe("sensors/+/temp").await?;
/// let two = agent.subscribe(["sensors/+/temp", "sensors/+/humidity"]).await?;
/// let many: Vec<String> = (0..100).map(|id| format!("devices/{id}/state")).collect();
/// let many = agent.subscribe(&many).await?;
/// # Ok(())
/// # }
/// ```
pub trait IntoFilters: sealed::Sealed {
    /// The filters, each checked.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidFilter`](crate::ErrorKind::InvalidFilter) for the first that is none.
    fn into_filters(self) -> Result<Vec<Filter>, Error>;
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! one_filter {
    ($($type:ty),*) => {$(
        impl sealed::Sealed for $type {}

        impl IntoFilters for $type {
            fn into_filters(self) -> Result<Vec<Filter>, Error> {
                Ok(vec![self.try_into()?])
            }
        }
    )*};
}

one_filter!(&str, String, &String, Filter, &Filter, Topic, &Topic);

macro_rules! many_filters {
    ($([$($generics:tt)*] $type:ty),*) => {$(
        impl<$($generics)*> sealed::Sealed for $type {}

        impl<$($generics)*> IntoFilters for $type
        where
            T: TryInto<Filter>,
            T::Error: Into<Error>,
        {
            fn into_filters(self) -> Result<Vec<Filter>, Error> {
                self.into_iter().map(|filter| filter.try_into().map_err(Into::into)).collect()
            }
        }
    )*};
}

many_filters!([T, const N: usize] [T; N], [T] Vec<T>);

macro_rules! lent_filters {
    ($([$($generics:tt)*] $type:ty),*) => {$(
        impl<$($generics)*> sealed::Sealed for $type {}

        impl<$($generics)*> IntoFilters for $type
        where
            T: TryInto<Filter> + Clone,
            T::Error: Into<Error>,
        {
            fn into_filters(self) -> Result<Vec<Filter>, Error> {
                self.iter().map(|filter| filter.clone().try_into().map_err(Into::into)).collect()
            }
        }
    )*};
}

lent_filters!([T] &[T], [T, const N: usize] &[T; N], [T] &Vec<T>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_come_in_many_forms() {
        fn texts(filters: impl IntoFilters) -> Vec<String> {
            filters.into_filters().unwrap().into_iter().map(String::from).collect()
        }
        let both = ["a", "b/#"];
        let (lent, topic) = (&both, &Topic::new("a").unwrap());
        let owned: Vec<String> = both.map(Into::into).into();
        assert_eq!(texts(both), both);
        assert_eq!(texts(lent), both);
        assert_eq!(texts(&both[..]), both);
        assert_eq!(texts(both.to_vec()), both);
        assert_eq!(texts(&owned), both);
        assert_eq!(texts(&owned[..]), both);
        assert_eq!(texts(owned), both);
        assert_eq!(texts(both.map(|text| Filter::new(text).unwrap())), both);
        assert_eq!(texts("a"), ["a"]);
        assert_eq!(texts(topic), ["a"]);
        assert!(["a", "#/b"].into_filters().is_err());
    }
}
