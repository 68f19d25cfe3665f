//! The annotation [`SETTINGS`](crate::annotations::SETTINGS): a JSON object with what an agent was started with, so that
//! others can say who differs.
//!
//! ```json
//! {"version":1,"subnet":["10.4.0.0/16"],"serviceCIDR":["10.43.0.0/16"],
//!  "topologyLabel":"topology.kubernetes.io/region","encapsulation":"ipip","port":51820}
//! ```
//!
//! A later version adds fields and keeps the meaning of these, so what is not known is read over. A field that is missing, or
//! is not what it should be, is not known of the agent.

use ipnet::IpNet;
use mesh::Settings;
use serde_json::{Value, json};

/// The version that is written.
const VERSION: u8 = 1;
/// The most entries of a list that count.
const MOST: usize = 16;
/// The longest text that counts, in bytes: the name of a label has up to 317.
const LONGEST: usize = 317;

/// The text of the annotation; `None`: there is nothing to tell.
pub(crate) fn encode(settings: &Settings) -> Option<String> {
    if *settings == Settings::default() {
        return None;
    }
    let Settings { subnets, services, topology_label, encapsulation, port, forced_port } = settings;
    let mut object = json!({
        "version": VERSION,
        "topologyLabel": topology_label,
        "encapsulation": encapsulation,
        "port": port,
        "forcedPort": forced_port,
        "subnet": (!subnets.is_empty()).then_some(subnets),
        "serviceCIDR": (!services.is_empty()).then_some(services),
    });
    if let Some(fields) = object.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
    Some(object.to_string())
}

/// What the annotation says. An error is text that is no such object, with the reason.
pub(crate) fn decode(text: &str) -> Result<Settings, String> {
    let object: Value = serde_json::from_str(text).map_err(|error| crate::object::reason(&error))?;
    if !object.is_object() {
        return Err("it is no JSON object".to_owned());
    }
    let text = |field: &str| {
        let text = object[field].as_str().filter(|text| !text.is_empty() && text.len() <= LONGEST);
        text.map(str::to_owned)
    };
    let port = |field: &str| {
        let number = object[field].as_u64().and_then(|port| u16::try_from(port).ok());
        number.filter(|port| *port != 0)
    };
    Ok(Settings {
        subnets: cidrs(&object["subnet"]),
        services: cidrs(&object["serviceCIDR"]),
        topology_label: text("topologyLabel"),
        encapsulation: text("encapsulation"),
        port: port("port"),
        forced_port: port("forcedPort"),
    })
}

/// A list in which everything is a CIDR.
fn cidrs(value: &Value) -> Vec<IpNet> {
    let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
    let cidrs = list.iter().take(MOST).map(|entry| entry.as_str()?.parse::<IpNet>().ok());
    cidrs.collect::<Option<_>>().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            subnets: vec!["10.4.0.0/16".parse().unwrap(), "fd00:4::/112".parse().unwrap()],
            services: vec!["10.43.0.0/16".parse().unwrap()],
            topology_label: Some("zone".to_owned()),
            encapsulation: Some("vxlan".to_owned()),
            port: Some(4000),
            forced_port: Some(4500),
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        let partly = Settings { port: Some(1), ..Settings::default() };
        assert_eq!(encode(&partly).as_deref(), Some(r#"{"port":1,"version":1}"#));
        for settings in [settings(), partly] {
            assert_eq!(decode(&encode(&settings).unwrap()), Ok(settings));
        }
        assert_eq!(encode(&Settings::default()), None);
    }

    #[test]
    fn what_a_later_version_writes_is_read_as_far_as_it_is_known() {
        let text = r#"{"version":7,"port":"many","topologyLabel":["a"],"subnet":["10.4.0.0/16",7],"colour":"red",
            "encapsulation":"geneve","serviceCIDR":["10.43.0.0/16"]}"#;
        let expected = Settings {
            encapsulation: Some("geneve".to_owned()),
            services: settings().services,
            ..Settings::default()
        };
        assert_eq!(decode(text), Ok(expected));
        assert_eq!(decode("{}"), Ok(Settings::default()));
        for text in ["", "7", "[]", "{", "null"] {
            assert!(decode(text).is_err(), "{text:?}");
        }
    }
}
