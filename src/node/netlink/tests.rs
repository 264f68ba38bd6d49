//! Messages that the kernel sends, and malformed ones.

use super::*;

const SEQUENCE: u32 = 7;
const LAST: Part = Part {
    is_last: true,
    is_interrupted: false,
};

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = ((value.len() + ATTRIBUTE_HEADER) as u16).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn message(kind: u16, flags: i32, sequence: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = ((payload.len() + HEADER) as u32).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend((flags as u16).to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend(0u32.to_ne_bytes());
    bytes.extend(payload);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn new_address(family: i32, attributes: &[Vec<u8>]) -> Vec<u8> {
    let mut payload = vec![family as u8, 64, 0x80, 0];
    payload.extend(3u32.to_ne_bytes());
    payload.extend(attributes.concat());
    message(libc::RTM_NEWADDR, libc::NLM_F_MULTI, SEQUENCE, &payload)
}

fn cache(preferred: u32, valid: u32) -> Vec<u8> {
    let value: Vec<u8> = [preferred, valid, 100, 200]
        .iter()
        .flat_map(|n| n.to_ne_bytes())
        .collect();
    attribute(libc::IFA_CACHEINFO, &value)
}

fn done() -> Vec<u8> {
    message(
        libc::NLMSG_DONE as u16,
        libc::NLM_F_MULTI,
        SEQUENCE,
        &0i32.to_ne_bytes(),
    )
}

#[test]
fn an_address_with_all_attributes() {
    let ip: Ipv6Addr = "2001:db8::10".parse().unwrap();
    let datagram = [
        new_address(
            libc::AF_INET6,
            &[
                attribute(libc::IFA_ADDRESS, &ip.octets()),
                attribute(99, b"unknown"),
                attribute(IFA_PROTO, &[2]),
                cache(0, 7200),
                attribute(libc::IFA_FLAGS, &(libc::IFA_F_DEPRECATED | 0x400).to_ne_bytes()),
            ],
        ),
        done(),
    ]
    .concat();
    let mut list = Vec::new();
    assert_eq!(parse(&datagram, SEQUENCE, &mut list).unwrap(), LAST);
    let expected = Address {
        interface: 3,
        ip,
        prefix_length: 64,
        flags: 0x420,
        protocol: 2,
        preferred: 0,
        valid: 7200,
        created: 100,
        updated: 200,
    };
    assert_eq!(list, [expected]);
    assert!(expected.is_deprecated() && expected.is_kernels() && !expected.is_duplicate());
}

#[test]
fn deprecated_by_lifetime_alone() {
    let mut list = Vec::new();
    let address = attribute(libc::IFA_ADDRESS, &[0x20; 16]);
    parse(
        &new_address(libc::AF_INET6, &[address.clone(), cache(0, 60)]),
        SEQUENCE,
        &mut list,
    )
    .unwrap();
    parse(
        &new_address(libc::AF_INET6, &[address, cache(2, 60)]),
        SEQUENCE,
        &mut list,
    )
    .unwrap();
    assert!(list[0].is_deprecated() && !list[1].is_deprecated());
}

#[test]
fn the_local_end_of_a_point_to_point_link() {
    let mut list = Vec::new();
    let attributes = [
        attribute(libc::IFA_ADDRESS, &[0xaa; 16]),
        attribute(libc::IFA_LOCAL, &[0x22; 16]),
    ];
    parse(&new_address(libc::AF_INET6, &attributes), SEQUENCE, &mut list).unwrap();
    assert_eq!(list[0].ip, Ipv6Addr::from([0x22; 16]));
}

#[test]
fn skipped_messages_and_attributes() {
    let mut list = Vec::new();
    let datagram = [
        new_address(libc::AF_INET, &[attribute(libc::IFA_ADDRESS, &[192, 0, 2, 1])]),
        message(libc::RTM_NEWADDR, 0, SEQUENCE + 1, b"another request's"),
        message(libc::RTM_NEWLINK, 0, SEQUENCE, b"link"),
        new_address(libc::AF_INET6, &[]),
    ]
    .concat();
    assert_eq!(parse(&datagram, SEQUENCE, &mut list).unwrap(), Part::default());
    assert_eq!(list, []);
}

#[test]
fn an_interrupted_dump_is_inconsistent() {
    let mut list = Vec::new();
    let datagram = [message(libc::RTM_NEWLINK, libc::NLM_F_DUMP_INTR, SEQUENCE, b""), done()].concat();
    let part = parse(&datagram, SEQUENCE, &mut list).unwrap();
    // The dump was interrupted, but has ended: no further message comes.
    assert!(part.is_interrupted && part.is_last);
}

#[test]
fn the_kernels_error_is_returned() {
    let datagram = message(libc::NLMSG_ERROR as u16, 0, SEQUENCE, &(-libc::EPERM).to_ne_bytes());
    let error = parse(&datagram, SEQUENCE, &mut Vec::new()).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EPERM));
}

#[test]
fn lengths_that_do_not_fit_are_refused() {
    let good = new_address(libc::AF_INET6, &[attribute(libc::IFA_ADDRESS, &[1; 16]), cache(1, 1)]);
    for cut in 1..good.len() {
        assert!(parse(&good[..cut], SEQUENCE, &mut Vec::new()).is_err(), "cut at {cut}");
    }
    for length in [0u16, 3, 200] {
        let mut attribute = attribute(libc::IFA_FLAGS, &[0; 4]);
        attribute[0..2].copy_from_slice(&length.to_ne_bytes());
        let datagram = new_address(libc::AF_INET6, &[attribute]);
        assert!(
            parse(&datagram, SEQUENCE, &mut Vec::new()).is_err(),
            "attribute length {length}"
        );
    }
    let short_address = new_address(libc::AF_INET6, &[attribute(libc::IFA_ADDRESS, &[1; 4])]);
    assert!(parse(&short_address, SEQUENCE, &mut Vec::new()).is_err());
}

#[test]
fn a_dump_that_fails_halfway() {
    let failed = message(
        libc::NLMSG_DONE as u16,
        libc::NLM_F_MULTI,
        SEQUENCE,
        &(-libc::ENODEV).to_ne_bytes(),
    );
    let error = parse(&failed, SEQUENCE, &mut Vec::new()).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
}

#[test]
fn the_kernel_lists_the_addresses_of_one_interface() {
    // SAFETY: the name ends in NUL and outlives the call.
    let index = unsafe { libc::if_nametoindex(c"lo".as_ptr()) };
    let list = Netlink::open().unwrap().addresses(index).unwrap();
    // A namespace whose loopback is down has no ::1.
    let is_parsed = |address: &Address| address.interface == index && address.prefix_length <= 128;
    assert!(list.iter().all(is_parsed), "{list:?}");
}
