//! The scenarios that `make test-boards` runs on each machine: those that depend on the kernel, the processor or 32
//! bits. Scenarios that exercise only rules and requests give the same result everywhere, so the list leaves them out.

/// Names of scenarios. Each run of the scenarios checks that they exist.
pub const PART: &[&str] = &[
    // The start, the command line, signals; and the limits of the DaemonSet.
    "first_start_on_an_empty_cluster",
    "as_the_daemonset_runs_it",
    "an_idle_round_costs_three_requests_and_no_write",
    "help_version_and_crds",
    "preview_prints_groups",
    "sigterm_and_sigint_end_k6u_while_idle",
    "sigterm_ends_k6u_while_a_request_hangs",
    "alone_in_an_empty_root",
    // Addresses and interfaces: netlink, and the wait for a change.
    "the_old_prefix_is_deprecated",
    "the_old_address_is_removed",
    "an_address_changes_in_two_steps",
    "all_addresses_are_lost",
    "only_local_addresses",
    "two_uplinks_keep_both",
    "irrelevant_changes_cost_no_request",
    "a_flood_of_changes_costs_one_round_a_second",
    "the_interface_disappears_and_comes_back",
    "the_interface_is_renamed",
    "a_prefix_moves_between_two_interfaces",
    "a_thousand_prefixes_of_an_attacker",
    "a_prefix_that_is_announced_no_longer",
    "a_deprecated_prefix_is_kept_for_a_while",
    "a_deprecated_prefix_takes_its_lease_along",
    "an_infinite_lifetime_goes_stale",
    "a_load_balancers_address_is_no_announcement",
    "an_interface_that_ignores_routers",
    "an_interface_that_is_full",
    "an_interface_without_carrier",
    "a_new_prefix_does_not_wait_for_the_old_one",
    "an_interface_by_an_alternative_name",
    "preview_takes_alternative_names",
    "an_interface_with_three_hundred_names",
    "netlink_overruns",
    "a_vlan",
    "a_bridge",
    "a_ppp_link",
    // Sockets, names, timeouts and TLS.
    "the_api_server_has_an_ipv6_address",
    "the_name_of_the_api_server_gets_a_new_address",
    "the_api_server_restarts",
    "the_token_is_rotated",
    "a_new_ca",
    "a_server_that_answers_a_byte_a_second",
    "connections_that_died_while_idle_cost_a_retry",
    "no_file_descriptors",
    "open_descriptors_and_threads",
    // Clocks and dates.
    "invalid_certificates",
    "retry_after_is_honoured",
    "the_api_servers_clock_jumps_by_a_year",
    "events_of_one_node_are_in_order",
    // Memory.
    "answers_that_are_too_large",
    "large_objects_that_fit",
    "an_interface_with_two_thousand_addresses",
    "twelve_hundred_entries",
];

/// The environment variable that chooses the scenarios of an emulated machine: `boards` or `all`. It is unset
/// elsewhere.
const CHOICE: &str = "K6U_SCENARIOS";

/// Whether only [`PART`] is to run.
pub fn are_chosen() -> bool {
    std::env::var_os(CHOICE).is_some_and(|part| part == "boards")
}

/// Whether this machine is emulated, and so about ten times as slow.
pub fn is_emulated() -> bool {
    std::env::var_os(CHOICE).is_some()
}
