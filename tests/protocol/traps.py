# ruff: noqa: E501  # the names of tests are as long as they are
"""The register of traps: what the protocol reference warns of, and which tests show that we do not fall into it.

Ids that begin with `T-` are those of its table of attacks (protocol 7); all others begin with the section that tells
of them. `python -m tests.protocol.traps` writes the register as a table in Markdown.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Trap:
    """One trap.

    Attributes:
        id: as said above; of attacks, tests carry it in their names.
        holds: what must hold, in one sentence.
        tests: `path::name`, the path from this package's parent on: those that show it best, not all.
        not_yet: the feature without which a part of it cannot be shown, or does not hold; empty where there is none.
    """

    id: str
    holds: str
    tests: tuple[str, ...]
    not_yet: str = ""


TRAPS: tuple[Trap, ...] = (
    Trap(
        "T-NAME1",
        "Every spelling of a name is the one name, on every route.",
        (
            "domain/test_names.py::test_T_NAME1_every_spelling_has_one_name",
            "protocol/test_names.py::test_T_NAME1_every_spelling_leads_to_the_one_page",
            "protocol/test_names.py::test_T_NAME1_every_spelling_is_the_one_name_of_a_document",
            "protocol/test_names.py::test_T_NAME1_a_claimed_name_is_claimed_in_every_spelling_and_never_asked_upstream",
        ),
    ),
    Trap(
        "T-NAME2",
        "What is outside the grammar is no name; nothing is repaired, dropped or mapped.",
        (
            "domain/test_names.py::test_T_NAME2_what_is_outside_the_grammar_is_refused",
            "protocol/test_names.py::test_T_NAME2_T_NAME3_what_is_no_name_is_404_on_every_route",
            "protocol/test_names.py::test_T_NAME2_T_NAME3_what_is_no_name_is_neither_uploaded_nor_administered",
            "protocol/test_names.py::test_T_NAME2_an_empty_segment_is_no_name",
            "web/test_json_api.py::test_T_NAME2_what_is_no_name_has_no_document",
        ),
    ),
    Trap(
        "T-NAME3",
        "No character of Unicode folds into an ASCII name or filename.",
        (
            "domain/test_names.py::test_T_NAME3_nothing_folds_into_ascii",
            "domain/test_addresses.py::test_T_NAME3_a_kelvin_sign_arrives_whole_and_is_no_name",
            "protocol/test_names.py::test_T_NAME3_explain_refuses_what_is_no_name",
            "protocol/test_filenames.py::test_what_is_no_filename_has_no_address_and_is_asked_of_nobody",
        ),
    ),
    Trap(
        "T-NAME4",
        "The string that is decided on is the string that is asked for, whatever bytes were sent.",
        (
            "protocol/test_any_bytes.py::test_T_NAME4_what_is_decided_on_is_what_is_asked_for",
            "protocol/test_any_bytes.py::test_T_NAME4_a_filename_of_any_bytes_asks_for_names_in_normal_form_alone",
            "domain/test_addresses.py::test_T_NAME4_the_name_of_a_page_is_what_was_sent_and_only_parse_name_makes_it_one",
            "domain/test_names.py::test_T_NAME4_a_name_is_refused_or_stays_the_same_however_often_it_is_parsed",
            "properties/test_claimed_names.py::test_a_name_reaches_the_upstream_in_its_normal_form_or_not_at_all",
        ),
    ),
    Trap(
        "T-CONF1",
        "A public package of a private name is shadowed whole, whatever its version.",
        (
            "protocol/test_confusion.py::test_T_CONF1_a_higher_public_version_of_a_private_name_is_nowhere",
            "clients/test_private_names.py::test_pip_gets_the_private_version_by_another_spelling_and_with_room_for_the_public_one",
            "properties/test_claimed_names.py::test_a_claimed_name_is_never_asked_upstream_by_any_route",
            "domain/test_decide.py::test_a_pattern_reserves_in_the_whole_tenant_and_at_the_root",
        ),
    ),
    Trap(
        "T-CONF2",
        "A name that was public before its first private upload is not taken over in silence.",
        (
            "protocol/test_confusion.py::test_T_CONF2_a_public_name_is_taken_over_by_a_maintainer_alone_and_not_in_silence",
            "protocol/test_confusion.py::test_T_CONF2_where_the_upstream_gives_no_answer_the_audit_says_unchecked",
            "protocol/test_confusion.py::test_T_CONF2_a_name_that_is_reserved_or_not_forwarded_is_asked_of_nobody",
            "domain/test_admit.py::test_T_CONF2_the_first_publication_of_a_public_name_takes_a_role",
            "web/test_simple.py::test_a_name_that_upstream_answered_is_private_as_soon_as_it_is_published",
            "web/test_matrix.py::test_a_reserved_name_is_claimed",
        ),
    ),
    Trap(
        "T-CONF3",
        "A deleted file, release, package or namespace never lets a name fall through to the public one.",
        (
            "protocol/test_confusion.py::test_T_CONF3_nor_after_the_private_file_release_or_package_is_deleted",
            "web/test_matrix.py::test_a_deleted_package_stays_claimed",
            "clients/test_private_names.py::test_after_deletion_the_name_is_451_and_no_client_gets_the_public_one",
            "registry/test_namespaces.py::test_dropping_deletes_packages_and_leaves_every_claim_to_the_instance",
        ),
    ),
    Trap(
        "T-CONF4",
        "Only a file on the page that is allowed there now is served at a file address.",
        (
            "protocol/test_confusion.py::test_T_CONF4_a_file_that_stands_on_no_page_is_not_fetched",
            "web/test_files.py::test_another_digest_or_filename_at_an_address_is_404",
            "index/test_answers.py::test_a_file_needs_its_own_digest_and_name",
            "web/test_files.py::test_an_sdist_whose_longer_name_is_claimed_is_served_from_the_shorter_one_and_only_that_is_asked",
        ),
    ),
    Trap(
        "T-CONF5",
        "A public local version does not stand in for a private one where both are served together.",
        (
            "domain/test_pages.py::test_T_CONF5_a_version_that_equals_a_private_one_but_for_its_local_part_is_shadowed",
            "index/test_merged.py::test_T_CONF5_a_public_local_version_does_not_stand_in_for_a_private_one",
            "protocol/test_merging.py::test_T_CONF5_a_public_local_version_of_a_private_one_is_on_no_route",
            "protocol/test_merging.py::test_T_CONF5_nor_where_the_private_version_is_out_of_sight",
        ),
    ),
    Trap(
        "T-CONF6",
        "Other bytes under a known filename never take the place of the known ones.",
        (
            "web/test_files.py::test_a_file_that_its_upstream_replaced_is_found_at_its_new_address_alone",
            "registry/test_packages.py::test_of_equal_filenames_the_newest_upload_is_listed_and_the_other_stays_at_its_address",
            "web/test_files.py::test_a_private_file_displaced_by_a_newer_upload_stays_at_its_address",
            "cache/test_files.py::test_wrong_bytes_are_never_read_whole_and_never_kept",
            "cache/test_pages.py::test_T_CONF6_files_that_a_newer_page_names_with_another_digest_are_told",
            "index/test_changed.py::test_T_CONF6_a_file_that_its_upstream_replaced_is_recorded_once",
            "domain/test_pages.py::test_T_CONF6_a_filename_that_is_private_is_shadowed_whatever_its_version",
            "protocol/test_merging.py::test_T_CONF6_other_bytes_of_a_private_filename_are_served_nowhere",
        ),
    ),
    Trap(
        "T-CONF7",
        'An upstream in trouble is never "not found", never an empty page, and no matter to private names.',
        (
            "protocol/test_confusion.py::test_T_CONF7_an_upstream_in_trouble_leaves_private_names_alone_and_is_no_404",
            "web/test_matrix.py::test_an_upstream_that_fails_is_never_not_found",
            "index/test_answers.py::test_any_failure_ends_the_search",
            "clients/test_offline.py::test_what_was_never_asked_for_is_unavailable_and_not_unknown",
            "clients/test_private_names.py::test_uv_stops_at_the_refusal_also_with_the_public_index_as_a_second_one",
            "clients/matrix/test_traps.py::test_no_answer_of_ours_keeps_pip_from_a_second_index",
        ),
    ),
    Trap(
        "T-CONF8",
        "Who needs credentials is told 401 on every path, so that no client settles for an anonymous view.",
        (
            "web/test_matrix.py::test_anonymous_callers_get_401_wherever_the_owner_is_not_public",
            "web/test_matrix.py::test_anonymous_callers_get_401_in_a_private_namespace_for_any_name",
            "clients/test_private_names.py::test_an_anonymous_caller_gets_401_at_every_index",
            "clients/test_private_names.py::test_an_anonymous_caller_gets_401_at_every_file",
            "clients/test_private_names.py::test_uv_installs_with_nothing_but_a_netrc",
            "protocol/test_attacks.py::test_what_is_hidden_is_told_apart_from_what_is_not_there_by_nobody",
        ),
    ),
    Trap(
        "T-CONF9",
        "No route, method, form or spelling gets another decision than the page.",
        (
            "protocol/test_confusion.py::test_T_CONF9_every_route_gives_the_same_decision",
            "protocol/test_confusion.py::test_T_CONF9_what_is_refused_is_asked_of_nobody",
            "properties/test_decision_table.py::test_T_CONF9_every_route_says_what_the_policy_says",
            "properties/test_decision_table.py::test_T_CONF9_so_it_does_in_every_spelling_and_by_every_method",
            "properties/test_claimed_names.py::test_every_route_asks_for_a_name_if_and_only_if_it_is_free",
            "web/test_json_api.py::test_T_CONF9_a_claimed_name_is_claimed_for_the_json_api_too",
            "web/test_own_page.py::test_only_the_project_s_own_files_count_and_no_upstream_is_asked",
        ),
    ),
    Trap(
        "T-UP1",
        "Form, filename and the archive's own metadata name one project and one version.",
        (
            "protocol/test_upload_traps.py::test_T_UP1_form_filename_and_metadata_must_name_the_same_project_and_version",
            "archive/test_inspect.py::test_T_UP1_metadata_of_another_name_or_version_are_refused",
            "domain/test_filenames.py::test_T_UP1_a_wheel_of_another_project_is_refused",
        ),
    ),
    Trap(
        "T-UP2",
        "An ambiguous sdist has one reading.",
        (
            "protocol/test_upload_traps.py::test_T_UP2_an_ambiguous_sdist_belongs_to_the_name_before_its_last_dash",
            "domain/test_filenames.py::test_T_UP2_an_sdist_belongs_to_one_name_whatever_the_form_says",
            "protocol/test_filenames.py::test_a_filename_is_published_or_refused",
        ),
    ),
    Trap(
        "T-UP3",
        "A filename is never a path, and a part has one name.",
        (
            "protocol/test_upload_traps.py::test_T_UP3_a_filename_that_is_none_is_refused_and_never_a_path",
            "protocol/test_upload_traps.py::test_T_UP3_two_names_in_one_part_are_never_taken_for_the_wrong_one",
            "domain/test_filenames.py::test_T_UP3_paths_and_strange_characters_are_refused_everywhere",
        ),
    ),
    Trap(
        "T-UP4",
        "A field that may stand once stands once.",
        (
            "protocol/test_upload_traps.py::test_T_UP4_a_field_that_may_stand_once_stands_once",
            "protocol/test_upload_traps.py::test_T_UP4_lists_may_have_many_values",
        ),
    ),
    Trap(
        "T-UP5",
        "A published file is never overwritten; a deleted one may come again, and the audit has both.",
        (
            "protocol/test_upload_traps.py::test_T_UP5_a_file_is_never_overwritten",
            "web/test_upload.py::test_T_UP5_a_deleted_file_may_be_published_again_and_the_audit_has_both",
            "web/test_upload.py::test_of_racing_uploads_of_one_filename_exactly_one_succeeds",
        ),
    ),
    Trap(
        "T-UP6",
        "Fields, texts, heads of parts and waiting have limits.",
        (
            "protocol/test_upload_traps.py::test_T_UP6_a_form_has_limits",
            "protocol/test_upload_traps.py::test_T_UP6_the_head_of_a_part_has_limits",
            "web/test_upload.py::test_T_UP6_a_form_without_its_end_is_400_and_leaves_nothing",
            "web/test_upload.py::test_T_UP6_a_body_that_stands_still_is_given_up_and_leaves_nothing",
        ),
    ),
    Trap(
        "T-UP7",
        "An encoded part is refused and never undone.",
        (
            "protocol/test_upload_traps.py::test_T_UP7_an_encoded_part_is_refused",
            "protocol/test_upload_traps.py::test_T_UP7_an_encoding_that_changes_nothing_is_accepted",
        ),
    ),
    Trap(
        "T-UP8",
        "No text that was sent gets out of the reason phrase.",
        (
            "protocol/test_upload_traps.py::test_T_UP8_no_text_of_the_form_gets_out_of_the_reason_phrase",
            "web/test_problems.py::test_T_UP8_no_text_gets_out_of_the_reason_phrase",
        ),
    ),
    Trap(
        "T-ARCH",
        "An archive that readers could take differently, or that costs too much to read, is refused.",
        (
            "archive/test_zips.py::test_T_ARCH_a_bomb_that_announces_little_takes_little_memory",
            "archive/test_zips.py::test_T_ARCH_other_compression_is_refused",
            "archive/test_zips.py::test_T_ARCH_duplicate_names_are_refused",
            "archive/test_zips.py::test_T_ARCH_a_local_header_that_differs_from_the_directory_is_refused",
            "archive/test_zips.py::test_T_ARCH_data_descriptors_are_refused_in_uploads_alone",
            "archive/test_zips.py::test_T_ARCH_names_that_readers_spell_differently_are_refused",
            "archive/test_zips.py::test_T_ARCH_comments_in_the_central_directory_are_refused",
            "archive/test_zips.py::test_T_ARCH_trailing_data_are_refused",
            "archive/test_zips.py::test_T_ARCH_prepended_data_are_refused",
            "archive/test_zips.py::test_T_ARCH_several_ends_are_refused",
            "archive/test_zips.py::test_T_ARCH_zip64_ends_that_readers_take_differently_are_refused",
            "archive/test_inspect.py::test_T_ARCH_a_zip_archive_that_is_a_tar_archive_too_is_refused",
            "archive/test_tars.py::test_T_ARCH_sparse_files_are_refused",
            "archive/test_inspect.py::test_T_ARCH_an_sdist_has_one_directory_at_its_top",
            "archive/test_inspect.py::test_T_ARCH_archives_without_metadata_are_refused",
            "archive/test_zips.py::test_T_ARCH_names_that_lead_out_are_refused_everywhere",
            "archive/test_tars.py::test_T_ARCH_names_that_lead_out_are_refused",
            "archive/test_tars.py::test_T_ARCH_symbolic_links_that_lead_out_are_refused",
            "archive/test_tars.py::test_T_ARCH_devices_and_fifos_are_refused",
            "archive/test_sandbox.py::test_an_archive_that_takes_too_long_is_refused_and_its_process_ended",
            "archive/test_sandbox.py::test_an_archive_that_takes_too_much_memory_is_refused",
            "domain/test_documents.py::test_T_ARCH_a_body_of_nested_mime_parts_is_but_a_description",
        ),
    ),
    Trap(
        "T-BOMB",
        (
            "What an upstream sends is bounded: pages when unpacked, lists, documents, files by their"
            " size; no file is unpacked."
        ),
        (
            "faults/test_transfers.py::test_a_gzip_bomb_is_refused_and_costs_no_memory",
            "cache/test_known_names.py::test_T_BOMB_an_endless_list_is_given_up",
            "cache/test_documents.py::test_T_BOMB_a_huge_document_is_refused",
            "protocol/test_upstream_traffic.py::test_T_BOMB_a_file_that_never_ends_is_broken_off_behind_its_size",
            "cache/test_files.py::test_T_BOMB_a_file_without_end_whose_size_nobody_names_is_broken_off",
            "protocol/test_upstream_traffic.py::test_T_BOMB_an_encoded_file_is_not_unpacked_and_not_served",
            "upstream/test_client.py::test_a_page_over_the_limit_is_refused",
            "upstream/test_client.py::test_a_page_that_trickles_for_ever_is_a_time_out",
        ),
    ),
    Trap(
        "T-SSRF",
        "Links, redirects and names that resolve to the inside are not followed.",
        (
            "upstream/test_client.py::test_T_SSRF_a_file_on_another_host_is_never_asked",
            "upstream/test_client.py::test_T_SSRF_a_name_that_resolves_to_loopback_needs_leave",
            "upstream/test_hosts.py::test_T_SSRF_everything_else_is_refused",
            "upstream/test_hosts.py::test_addresses_that_are_not_of_the_public_internet",
            "upstream/test_client.py::test_https_does_not_redirect_to_http",
            "upstream/test_client.py::test_three_redirects_are_followed_and_links_are_relative_to_the_last",
        ),
    ),
    Trap(
        "T-SSRF2",
        "Addresses in forms and metadata are never asked, and only web addresses become links.",
        (
            "protocol/test_upstream_traffic.py::test_T_SSRF2_no_address_in_a_form_or_in_metadata_is_ever_asked",
            "domain/test_documents.py::test_T_SSRF2_only_web_addresses_become_links",
            "upstream/test_documents.py::test_T_SSRF2_only_web_addresses_are_taken",
            "domain/test_documents.py::test_T_SSRF2_metadata_give_no_other_addresses",
        ),
    ),
    Trap(
        "T-PATH",
        "Encoded slashes, dot segments, empty segments and second layers of escapes lead nowhere.",
        (
            "protocol/test_attacks.py::test_T_PATH_what_is_no_address_is_404_and_told_harmlessly",
            "domain/test_addresses.py::test_T_PATH_an_encoded_slash_is_no_slash_outside_an_id",
            "domain/test_addresses.py::test_T_PATH_as_a_name",
            "domain/test_addresses.py::test_T_PATH_as_a_namespace",
            "domain/test_addresses.py::test_T_PATH_as_a_filename",
            "domain/test_addresses.py::test_nothing_is_decoded_twice",
        ),
    ),
    Trap(
        "T-HDR",
        "Nothing that was sent is reflected in a header unless it is valid there.",
        (
            "web/test_simple.py::test_T_HDR_nothing_that_an_upstream_sends_in_a_header_is_passed_on",
            "domain/test_addresses.py::test_T_HDR_a_query_that_may_not_stand_in_a_header_is_dropped",
            "web/test_problems.py::test_no_rule_gets_out_of_the_decision_header",
        ),
    ),
    Trap(
        "T-POIS1",
        "No header of a request ends up in an address that others get.",
        (
            "protocol/test_attacks.py::test_T_POIS1_no_header_changes_a_page_a_redirect_or_what_others_get",
            "web/test_app.py::test_the_scheme_of_a_proxy_counts_only_if_it_is_trusted",
        ),
    ),
    Trap(
        "T-POIS2",
        "What an answer depends on is its key, and `Vary` says so on 304 too.",
        (
            "protocol/test_attacks.py::test_T_POIS2_what_one_caller_may_see_is_shown_to_no_other",
            "protocol/test_attacks.py::test_T_POIS2_a_tag_of_a_file_tells_nothing_to_those_who_may_not_read_it",
            "protocol/test_negotiation.py::test_T_POIS2_a_304_varies_as_the_page_does",
            "web/test_simple.py::test_the_query_is_ignored_but_for_the_format",
            "web/test_simple.py::test_a_page_that_the_client_has_is_304",
        ),
    ),
    Trap(
        "T-POIS3",
        "An error page, a truncated answer or another project's page is never kept, and replaces nothing.",
        (
            "upstream/test_parse.py::test_T_POIS3_what_is_not_the_page_of_this_project_is_unusable",
            "cache/test_pages.py::test_a_faulty_answer_never_replaces_a_good_page",
            "cache/test_known_names.py::test_T_POIS3_what_is_no_good_list_replaces_none",
            "cache/test_documents.py::test_T_POIS3_a_hostile_document_is_not_kept",
            "upstream/test_documents.py::test_T_POIS3_another_projects_document_is_unusable",
        ),
    ),
    Trap(
        "T-POIS4",
        "A body that is framed in two ways is refused.",
        (
            "protocol/test_attacks.py::test_T_POIS4_a_body_that_is_framed_twice_is_refused",
            "protocol/test_upload_traps.py::test_T_POIS4_chunks_that_are_none_are_400_and_no_fault_of_ours",
        ),
    ),
    Trap(
        "T-TOK1",
        "Credentials of a client go to no upstream, and those of an upstream to its origin alone.",
        (
            "web/test_simple.py::test_T_TOK1_credentials_of_a_client_never_reach_an_upstream",
            "upstream/test_client.py::test_T_TOK1_credentials_go_to_the_indexs_origin_alone",
            "clients/test_upstreams.py::test_an_upstream_that_asks_for_credentials_gets_them_and_nobody_else_sees_them",
        ),
    ),
    Trap(
        "T-TOK2",
        "No secret stands in a log, an error, an address or the audit.",
        (
            "web/test_app.py::test_T_TOK2_no_secret_stands_in_the_log_wherever_it_was_sent",
            "observe/test_redaction.py::test_secrets_are_hidden_wherever_they_stand",
            "web/test_admin_tokens.py::test_no_text_of_a_token_stands_in_the_log_or_the_audit",
        ),
    ),
    Trap(
        "T-TOK3",
        "All that is wrong with credentials is answered alike, and secrets are looked up by their hash.",
        (
            "protocol/test_attacks.py::test_T_TOK3_every_wrong_credential_gets_the_same_answer",
            "identity/test_credentials.py::test_all_that_is_wrong_is_told_in_the_same_words",
            "identity/test_tokens.py::test_no_part_of_a_token_is_at_rest_but_its_hash",
        ),
    ),
    Trap(
        "T-TOK4",
        "Guessing is slowed, per address and per prefix, and nobody else is.",
        (
            "identity/test_throttle.py::test_T_TOK4_an_attack_on_one_kind_from_many_addresses_is_told_to_wait",
            "web/test_throttle.py::test_T_TOK4_an_attack_from_many_addresses_is_told_to_wait",
            "web/test_throttle.py::test_right_credentials_and_none_at_all_are_never_slowed",
            "identity/test_throttle.py::test_what_is_remembered_is_bounded",
        ),
    ),
    Trap(
        "T-TOK5",
        "White space around a password is let pass; malformed credentials are 401 and never 500.",
        (
            "identity/test_credentials.py::test_T_TOK5_white_space_around_a_password_is_ignored",
            "identity/test_credentials.py::test_T_TOK5_malformed_credentials_are_not_authenticated",
            "identity/test_credentials.py::test_arbitrary_headers_are_nobody_or_not_authenticated",
        ),
    ),
    Trap(
        "T-XSS",
        "No text of an upload or an upstream breaks out of HTML or JSON; files are never shown as pages.",
        (
            "domain/test_render.py::test_T_XSS_nothing_breaks_out_of_html",
            "domain/test_render.py::test_T_XSS_nothing_breaks_out_of_json",
            "web/test_app.py::test_T_XSS_the_front_page_escapes_the_host",
            "web/test_files.py::test_a_file_on_disk_has_exactly_the_headers_of_the_contract",
            "clients/matrix/test_html_validator.py::test_the_whole_corpus_is_valid_html",
        ),
        not_yet="web pages for people (descriptions are served as JSON alone)",
    ),
    Trap(
        "T-HOMO",
        "A private name that looks like a public one is warned of.",
        (
            "web/test_shadowing.py::test_T_HOMO_a_first_publication_is_warned_of_public_names_that_look_alike",
            "web/test_shadowing.py::test_T_HOMO_names_of_the_tenant_are_warned_of_where_the_caller_may_read_them",
            "web/test_shadowing.py::test_T_HOMO_nobody_is_asked_for_a_look_alike",
        ),
    ),
    Trap(
        "T-DOS",
        "Long lists, large pages, unknown names and ranges cost a bounded amount and hold up nobody.",
        (
            "web/test_large_pages.py::test_T_DOS_a_list_of_a_whole_upstream_holds_up_nobody_and_fits_into_memory",
            "web/test_names.py::test_T_DOS_lists_never_make_the_upstream_work",
            "protocol/test_upstream_traffic.py::test_T_DOS_many_ranges_cost_no_more_than_the_file",
            "cache/test_pages.py::test_absence_is_bounded",
            "cache/test_pages.py::test_fifty_callers_cause_one_request",
            "web/test_large_pages.py::test_a_page_of_4000_files_of_an_upstream_holds_up_nobody",
            "domain/test_filenames.py::test_a_made_up_filename_sets_few_questions_going",
            "protocol/test_attacks.py::test_connections_that_say_nothing_leave_room_for_those_that_do",
        ),
    ),
    Trap(
        "T-YANK",
        "A yank or quarantine is not hidden by an old page for ever.",
        (
            "protocol/test_upstream_traffic.py::test_T_YANK_a_yank_its_end_and_a_quarantine_are_seen_once_the_page_is_not_fresh",
            "protocol/test_upstream_traffic.py::test_T_YANK_an_upstream_that_hides_behind_trouble_does_not_keep_an_old_page_alive",
            "cache/test_pages.py::test_too_old_a_page_is_not_shown",
            "web/test_files.py::test_a_project_that_its_upstream_quarantined_gives_no_file_also_no_cached_one",
            "web/test_admin_held.py::test_a_removed_file_is_refused_with_a_sentence_until_a_command_releases_it",
        ),
    ),
    Trap(
        "T-REPLAY",
        "Upstreams are reached by https with certificates checked, and never led away from it.",
        (
            "upstream/test_client.py::test_T_REPLAY_only_certificates_of_trusted_authorities_are_taken",
            "upstream/test_client.py::test_https_does_not_redirect_to_http",
            "upstream/test_hosts.py::test_an_http_index_reaches_itself_over_http_but_others_over_https_only",
        ),
    ),
    Trap(
        "0-uploads-not-redirected",
        "An upload is never redirected: flit takes a 301 for success, all others but uv fail.",
        (
            "protocol/test_upload_traps.py::test_no_POST_is_ever_redirected",
            "clients/matrix/test_traps.py::test_flit_meets_no_redirect_which_it_would_take_for_success",
        ),
    ),
    Trap(
        "0-timeouts",
        (
            "Bytes flow within the time-outs of clients (pip 15 s, hatch 10 s), also while a cold "
            "file is verified."
        ),
        (
            "cache/test_files.py::test_the_first_bytes_are_readable_long_before_the_last_arrive",
            "faults/test_transfers.py::test_bytes_stream_from_the_first_on_and_the_last_are_held_back",
            "clients/test_upstreams.py::test_a_slow_file_arrives",
        ),
    ),
    Trap(
        "1.1-redirects",
        "A missing slash or another spelling is one relative 301, also for names that nobody has.",
        (
            "web/test_simple.py::test_redirects_are_relative_permanent_and_one_hop",
            "web/test_own_page.py::test_slash_and_spelling_redirect_as_pages_do",
        ),
    ),
    Trap(
        "1.1-cached-301",
        "pip keeps a 301 for ever unless it is `no-store`.",
        (
            "web/test_simple.py::test_redirects_are_relative_permanent_and_one_hop",
            "clients/matrix/test_traps.py::test_pip_keeps_no_redirect_of_ours",
        ),
    ),
    Trap(
        "1.1-empty-page",
        "A known project without files is 200 with no files, and ends the search.",
        (
            "index/test_answers.py::test_a_page_without_files_ends_the_search",
            "domain/test_render.py::test_a_page_without_files_is_1_4",
        ),
    ),
    Trap(
        "1.1-quarantined",
        "A quarantined project is 200 without files, and its files are refused.",
        (
            "clients/test_upstreams.py::test_a_quarantined_project_fails_also_where_its_files_are_cached",
            "domain/test_screen.py::test_offers_no_file_and_says_which_and_why",
            "index/test_quarantine.py::test_a_quarantined_package_is_private_and_empty_though_an_upstream_has_the_name",
        ),
    ),
    Trap(
        "1.1-fragment",
        (
            "A fragment that an old client sends along is dropped, a query is kept on redirects and "
            "else ignored."
        ),
        (
            "domain/test_addresses.py::test_a_target_splits_into_path_and_query",
            "domain/test_addresses.py::test_the_query_is_kept_as_sent",
            "web/test_simple.py::test_the_query_is_ignored_but_for_the_format",
        ),
    ),
    Trap(
        "1.2-never-406",
        "What matches no type is HTML, not 406.",
        (
            "protocol/test_negotiation.py::test_the_type_that_is_sent",
            "domain/test_negotiate.py::test_accept_chooses_the_representation",
        ),
    ),
    Trap(
        "1.2-wildcard",
        "`*/*` is HTML, because hatch sends it and reads HTML.",
        (
            "protocol/test_negotiation.py::test_the_type_that_is_sent",
            "web/test_own_page.py::test_it_is_html_whatever_is_asked_for",
        ),
    ),
    Trap(
        "1.2-latest",
        (
            "`latest` is answered with the concrete `v1` type, and `format` wins over `Accept` where "
            "it is known."
        ),
        (
            "protocol/test_negotiation.py::test_the_type_that_is_sent",
            "protocol/test_negotiation.py::test_format_wins_over_Accept_where_it_is_known",
        ),
    ),
    Trap(
        "1.2-q-values",
        "q-values count, garbage is ignored, several headers are one.",
        (
            "domain/test_negotiate.py::test_accept_chooses_the_representation",
            "protocol/test_negotiation.py::test_several_Accept_headers_count_as_one",
            "domain/test_negotiate.py::test_no_header_at_all_is_an_error",
        ),
    ),
    Trap(
        "1.2-vary",
        "`Vary` stands on every page and on 304.",
        (
            "web/test_simple.py::test_a_page_has_exactly_the_headers_of_the_contract",
            "protocol/test_negotiation.py::test_T_POIS2_a_304_varies_as_the_page_does",
        ),
    ),
    Trap(
        "1.3-html5",
        "Pages are valid HTML5 with a doctype.",
        (
            "protocol/test_foreign_parsers.py::test_every_page_is_html5_without_an_error_of_syntax",
            "clients/matrix/test_html_validator.py::test_the_whole_corpus_is_valid_html",
        ),
    ),
    Trap(
        "1.3-escape",
        "`<` and `>` in requires-python and reasons are escaped: readers use simple expressions.",
        (
            "domain/test_render.py::test_no_raw_angle_bracket_stands_in_a_tag",
            "protocol/test_pages.py::test_hatch_reads_every_page_by_its_expression",
        ),
    ),
    Trap(
        "1.3-text",
        "The text of a link is the last part of its address.",
        ("protocol/test_pages.py::test_a_link_has_no_query_and_ends_in_the_filename",),
    ),
    Trap(
        "1.3-hash-fragment",
        "A link in HTML has `#sha256=`, a URL in JSON no fragment.",
        (
            "domain/test_render.py::test_a_full_record",
            "domain/test_render.py::test_the_only_hash_is_the_sha256_and_no_link_has_a_fragment",
            "protocol/test_pages.py::test_the_only_digest_of_a_file_is_its_sha256",
        ),
    ),
    Trap(
        "1.3-provenance",
        "`data-provenance` is an absolute https address or absent.",
        (
            "domain/test_render.py::test_provenance_of_ours_needs_a_secure_address_of_the_server",
            "protocol/test_foreign_parsers.py::test_a_private_page_is_read_with_its_yank_status_and_provenance",
        ),
    ),
    Trap(
        "1.3-both-names",
        "HTML carries both names of core metadata.",
        ("domain/test_render.py::test_metadata_is_advertised_for_every_wheel_and_no_other_file",),
    ),
    Trap(
        "1.3-base",
        "`<base href>` is honoured when read and never written.",
        (
            "upstream/test_parse.py::test_base_href_is_what_links_are_relative_to",
            "protocol/test_pages.py::test_a_page_says_no_base_and_no_address_of_a_host",
        ),
    ),
    Trap(
        "1.3-root-hrefs",
        "Links of a list are relative: poetry takes the whole href for the name.",
        (
            "domain/test_render.py::test_html_has_relative_links",
            "protocol/test_pages.py::test_poetry_takes_the_links_of_a_list_for_names",
            "clients/matrix/test_traps.py::test_poetry_reads_the_names_of_the_root_list_in_both_its_forms",
        ),
    ),
    Trap(
        "1.3-frozen",
        "HTML says 1.4 for ever.",
        (
            "domain/test_render.py::test_both_html_types_have_the_same_bytes",
            "protocol/test_foreign_parsers.py::test_pypi_simple_reads_project_pages",
        ),
    ),
    Trap(
        "1.4-null",
        "A null makes uv refuse the whole page, so no key is null.",
        (
            "domain/test_render.py::test_what_is_not_known_is_absent_and_never_null",
            "protocol/test_pages.py::test_no_key_that_a_client_reads_is_null_or_an_empty_text",
        ),
    ),
    Trap(
        "1.4-yanked-empty",
        "An empty `yanked` is true for uv and false for pip, so it is never written.",
        (
            "domain/test_render.py::test_a_yank_with_and_without_reason",
            "protocol/test_pages.py::test_no_key_that_a_client_reads_is_null_or_an_empty_text",
        ),
    ),
    Trap(
        "1.4-upload-time",
        "A time without zone or with garbage ends pip and makes uv refuse the page.",
        (
            "domain/test_render.py::test_an_upload_time_is_utc_with_six_digits_or_none",
            "protocol/test_pages.py::test_times_have_a_zone_and_no_more_than_six_digits",
            "upstream/test_parse.py::test_each_json_value_is_checked_by_itself",
        ),
    ),
    Trap(
        "1.4-hashes",
        "`hashes` is always there, and pip verifies its first entry alone: sha256 stands alone.",
        (
            "protocol/test_pages.py::test_the_only_digest_of_a_file_is_its_sha256",
            "clients/matrix/test_traps.py::test_an_upstreams_digests_that_pip_does_not_know_are_not_handed_on",
            "domain/test_render.py::test_what_is_not_known_is_absent_and_never_null",
        ),
    ),
    Trap(
        "1.4-dist-info",
        "`dist-info-metadata` makes pip 22.3 to 23.1 stop; PyPI's misspelling does not.",
        ("domain/test_render.py::test_the_name_at_which_pip_22_3_to_23_1_stop_is_not_used",),
    ),
    Trap(
        "1.4-upstream-nulls",
        "What PyPI writes as null is read, and costs nothing but itself.",
        (
            "upstream/test_parse.py::test_each_json_value_is_checked_by_itself",
            "upstream/test_parse.py::test_a_bad_entry_costs_itself_and_not_the_page",
        ),
    ),
    Trap(
        "1.4-content-type",
        "uv compares the content type letter by letter.",
        ("web/test_simple.py::test_a_page_has_exactly_the_headers_of_the_contract",),
    ),
    Trap(
        "1.4-status",
        "The status stands as `status` in `project-status`.",
        (
            "domain/test_render.py::test_a_status_is_shown_in_any_version_of_the_api",
            "domain/test_render.py::test_a_status_and_its_reason",
        ),
    ),
    Trap(
        "1.4-versions",
        "`versions` has the version of every file, unparsable ones too.",
        ("upstream/test_parse.py::test_versions_are_those_listed_and_those_of_the_files",),
    ),
    Trap(
        "1.5-lowest",
        "A page claims the version whose mandatory fields it has.",
        (
            "domain/test_render.py::test_one_file_without_size_makes_the_page_1_0",
            "web/test_simple.py::test_a_page_without_sizes_does_not_claim_more_than_it_holds",
        ),
    ),
    Trap(
        "1.5-major",
        (
            "A newer major version of an upstream's page is not understood and not served; a newer "
            "minor one is, as ours."
        ),
        (
            "upstream/test_parse.py::test_T_POIS3_what_is_not_the_page_of_this_project_is_unusable",
            "protocol/test_pages.py::test_of_an_upstreams_page_nothing_is_handed_on_but_what_is_on_the_list",
        ),
    ),
    Trap(
        "1.6-no-304",
        "PyPI's file host never says 304, so files are not revalidated.",
        (
            "protocol/test_upstream_traffic.py::test_an_upstream_is_asked_in_the_same_words_whoever_asks",
            "cache/test_files.py::test_a_file_is_fetched_once_also_over_a_restart",
        ),
    ),
    Trap(
        "1.6-gone",
        '403 and 404 of a file host are trouble of the upstream, not "not found".',
        (
            "upstream/test_client.py::test_trouble_with_files",
            "web/test_files.py::test_an_upstream_that_does_not_give_a_listed_file_is_unavailable",
        ),
    ),
    Trap(
        "1.6-encoded-etag",
        "An upstream's validator is opaque and sent back as it came.",
        ("cache/test_pages.py::test_an_older_page_is_revalidated_by_its_validator",),
    ),
    Trap(
        "1.6-root-size",
        "A root list of 700,000 names is streamed, and never built for a request.",
        (
            "web/test_large_pages.py::test_T_DOS_a_list_of_a_whole_upstream_holds_up_nobody_and_fits_into_memory",
            "cache/test_known_names.py::test_700_000_names_fit_into_30_MB_and_are_found_in_20_steps",
        ),
    ),
    Trap(
        "2.1-one-decision",
        "One function decides for every route, by one canonicaliser.",
        (
            "properties/test_claimed_names.py::test_every_route_asks_for_a_name_if_and_only_if_it_is_free",
            "domain/test_decide.py::test_only_a_name_that_nobody_owns_or_that_is_merged_is_ever_asked_upstream",
        ),
    ),
    Trap(
        "2.1-451",
        "A claimed name is 451: at 404 uv goes on, and a 403 it takes for credentials.",
        (
            "clients/test_private_names.py::test_uv_stops_at_the_refusal_also_with_the_public_index_as_a_second_one",
            "clients/test_refusals.py::test_uv_shows_the_reason_of_a_451_and_goes_by_any_other_status",
            "protocol/test_confusion.py::test_T_CONF9_every_route_gives_the_same_decision",
        ),
    ),
    Trap(
        "2.1-check-url",
        "`uv publish --check-url` gives up at a 451, so the project's own page is empty instead.",
        (
            "web/test_matrix.py::test_a_claimed_name_is_a_200_without_files_for_those_who_publish_to_the_project",
            "clients/test_publishing.py::test_check_url_at_the_project_lets_a_reserved_name_be_published_first",
        ),
    ),
    Trap(
        "2.1-extra-index",
        "Nothing that an index answers keeps pip from a second one.",
        ("clients/matrix/test_traps.py::test_no_answer_of_ours_keeps_pip_from_a_second_index",),
    ),
    Trap(
        "2.2-origin",
        "Files have the origin of their page, since credentials go nowhere else.",
        (
            "web/test_simple.py::test_links_are_relative_and_lead_to_the_file_behind_any_prefix",
            "protocol/test_pages.py::test_a_page_says_no_base_and_no_address_of_a_host",
        ),
    ),
    Trap(
        "2.2-query",
        "A file address has no query: pip and uv put `.metadata` in different places.",
        (
            "protocol/test_pages.py::test_a_link_has_no_query_and_ends_in_the_filename",
            "cache/test_files.py::test_the_metadata_address_keeps_a_query_behind_the_path",
        ),
    ),
    Trap(
        "2.2-plus",
        "`+` arrives as `+` or `%2B`.",
        (
            "web/test_files.py::test_a_plus_in_a_filename_may_be_encoded_or_not",
            "domain/test_addresses.py::test_plus_in_a_filename_comes_in_two_spellings",
            "protocol/test_filenames.py::test_a_filename_is_published_or_refused",
        ),
    ),
    Trap(
        "2.2-relative",
        "Links of an upstream are relative to the answer's final address.",
        ("upstream/test_client.py::test_three_redirects_are_followed_and_links_are_relative_to_the_last",),
    ),
    Trap(
        "2.3-allow-list",
        "PEP 708's and 752's keys, private keys and unknown ones are dropped.",
        ("protocol/test_pages.py::test_of_an_upstreams_page_nothing_is_handed_on_but_what_is_on_the_list",),
    ),
    Trap(
        "2.3-serial",
        "The upstream's serial is not ours.",
        (
            "web/test_simple.py::test_T_HDR_nothing_that_an_upstream_sends_in_a_header_is_passed_on",
            "protocol/test_pages.py::test_of_an_upstreams_page_nothing_is_handed_on_but_what_is_on_the_list",
        ),
    ),
    Trap(
        "2.3-yanked",
        "A yanked file is never shown without its mark; a `data-yanked` without value counts.",
        (
            "upstream/test_parse.py::test_html_attributes_without_or_with_odd_values",
            "properties/test_pages_roundtrip.py::test_json_says_everything",
            "clients/test_upstreams.py::test_a_yanked_version_is_not_chosen_but_can_be_asked_for",
        ),
    ),
    Trap(
        "2.3-legacy",
        "Files of old kinds and versions that nobody can parse pass.",
        (
            "properties/test_pages_roundtrip.py::test_json_says_everything",
            "protocol/test_filenames.py::test_a_filename_of_an_upstream_is_listed_and_served_or_left_out",
            "domain/test_documents.py::test_what_pep_440_does_not_know_stays_apart_and_as_it_is",
        ),
    ),
    Trap(
        "2.3-duplicates",
        "A filename is listed once, with its own digest.",
        (
            "upstream/test_parse.py::test_of_equal_filenames_the_first_counts_and_the_order_stays",
            "registry/test_packages.py::test_of_equal_filenames_the_newest_upload_is_listed_and_the_other_stays_at_its_address",
        ),
    ),
    Trap(
        "2.3-metadata-404",
        "A 404 for advertised metadata is fatal in pip and uv, so it is never given.",
        (
            "web/test_files.py::test_metadata_that_the_upstream_lacks_are_taken_from_the_wheel",
            "web/test_files.py::test_a_wheel_without_metadata_is_502_and_never_404",
            "clients/matrix/test_traps.py::test_metadata_that_the_upstream_advertises_and_does_not_give_stop_no_client",
        ),
    ),
    Trap(
        "2.3-metadata-digest",
        "Metadata with another digest than the page's are never served.",
        (
            "web/test_files.py::test_wrong_metadata_are_never_served",
            "index/test_metadata.py::test_metadata_without_the_digest_that_the_page_names_are_never_served",
        ),
    ),
    Trap(
        "2.3-metadata-differ",
        "pip 26.2 stops where `.metadata` and the wheel differ, so they are the wheel's own.",
        (
            "web/test_files.py::test_metadata_of_a_private_file_are_advertised_with_their_digest_and_served",
            "index/test_metadata.py::test_the_verified_wheel_counts_more_than_what_was_read_in_parts",
        ),
    ),
    Trap(
        "2.3-sdist-metadata",
        "Metadata of an sdist are advertised where they are final.",
        (
            "web/test_files.py::test_metadata_of_a_private_sdist_that_its_build_may_change_are_not_advertised",
            "archive/test_inspect.py::test_metadata_of_an_sdist_are_final_as_pep_643_has_it",
        ),
    ),
    Trap(
        "2.3-md5",
        "An md5 in a fragment is no digest.",
        ("upstream/test_parse.py::test_an_md5_fragment_is_no_digest",),
    ),
    Trap(
        "3.1-legacy",
        "`/legacy` and `/legacy/` take uploads alike.",
        ("web/test_upload.py::test_the_legacy_address_publishes_to_the_default_project",),
    ),
    Trap(
        "3.1-action",
        "`:action` stands in query or body; what indexes used to do is 410.",
        (
            "web/test_upload.py::test_the_action_may_stand_in_the_query",
            "web/test_upload.py::test_what_indexes_used_to_do_is_410",
        ),
    ),
    Trap(
        "3.1-metadata-version",
        "Any metadata version of 1.x and 2.x is taken.",
        ("protocol/test_upload_traps.py::test_every_metadata_version_that_a_backend_may_write_is_taken",),
    ),
    Trap(
        "3.1-name-munged",
        "twine sends another spelling of the name: names are compared in normal form.",
        ("registry/test_form.py::test_other_spellings_of_name_and_version_belong_to_it",),
    ),
    Trap(
        "3.1-digests",
        "Every digest that is given must be right, in letters of either case; none is required to be md5.",
        (
            "web/test_upload.py::test_every_digest_is_checked_and_right_ones_pass_in_any_case",
            "protocol/test_gitlab_roles.py::test_a_digest_may_be_missing_but_not_malformed",
        ),
    ),
    Trap(
        "3.1-part-type",
        "uv and flit send the file without a content type.",
        ("web/test_upload.py::test_a_file_part_without_a_content_type_is_accepted",),
    ),
    Trap(
        "3.1-order",
        "The order of fields means nothing, and attestations come after the file.",
        (
            "web/test_upload.py::test_the_order_of_fields_does_not_matter",
            "web/test_upload.py::test_fields_behind_the_file_count",
            "web/test_upload.py::test_attestations_are_served_as_provenance",
        ),
    ),
    Trap(
        "3.1-empty",
        "`UNKNOWN` and empty fields count as absent (pdm sends them all).",
        (
            "web/test_upload.py::test_empty_fields_and_UNKNOWN_count_as_absent_and_strangers_are_ignored",
            "registry/test_form.py::test_unknown_and_empty_values_count_as_absent",
        ),
    ),
    Trap(
        "3.1-plurals",
        "Fields under other names, such as pdm's `provides_extras`, are let be.",
        ("registry/test_form.py::test_fields_that_clients_send_under_other_names_are_ignored",),
    ),
    Trap(
        "3.1-nul",
        "A NUL does not reach the database.",
        ("registry/test_form.py::test_a_nul_does_not_reach_the_database",),
    ),
    Trap(
        "3.1-text-with-filename",
        "A text field that comes as a file is refused.",
        ("protocol/test_upload_traps.py::test_a_text_that_comes_as_a_file_is_refused",),
    ),
    Trap(
        "3.2-phrase-and-body",
        "Each client shows reason phrase or body, so both have the message.",
        (
            "web/test_upload.py::test_every_refusal_is_readable_in_every_client",
            "web/test_upload.py::test_a_refusal_is_plain_text_for_all_others",
        ),
    ),
    Trap(
        "3.2-bare-json",
        "uv reads JSON only of exactly `application/json`.",
        (
            "web/test_upload.py::test_a_refusal_is_bare_JSON_for_those_who_ask_for_it",
            "clients/matrix/test_traps.py::test_uv_shows_the_sentence_and_not_the_json_around_it",
        ),
    ),
    Trap(
        "3.2-twine-5xx",
        "twine sends an upload five times at a 5xx, so nothing that is the client's fault is one.",
        (
            "clients/matrix/test_traps.py::test_a_full_disk_is_told_and_costs_twine_five_uploads_and_the_others_one",
            "web/test_upload.py::test_every_refusal_is_readable_in_every_client",
        ),
    ),
    Trap(
        "3.2-read-on",
        "Clients read no answer before all is sent, so a refused body is read on.",
        (
            "web/test_upload.py::test_a_file_over_the_limit_is_413_and_the_client_gets_to_see_it",
            "web/test_upload.py::test_a_405_to_an_upload_comes_after_all_of_it_was_read",
        ),
    ),
    Trap(
        "3.2-405",
        "An upload to a simple index is 405, which uv explains.",
        (
            "web/test_upload.py::test_a_405_names_no_project_that_the_caller_may_not_see",
            "web/test_upload.py::test_a_method_that_an_address_does_not_take_is_405",
        ),
    ),
    Trap(
        "3.3-identical",
        "twine cannot skip existing files of a private index, so the same bytes may be 200.",
        (
            "web/test_upload.py::test_the_same_bytes_again_are_200_where_the_policy_accepts_them",
            "clients/matrix/test_publishing.py::test_the_same_file_again_is_accepted_where_the_policy_says_so",
            "clients/matrix/test_traps.py::test_twine_does_not_begin_to_skip_existing_files",
        ),
    ),
    Trap(
        "3.3-phrases",
        'Only a real duplicate says what clients take for "already exists" or "was ever registered".',
        (
            "web/test_upload.py::test_only_a_real_duplicate_says_what_clients_take_for_one",
            "clients/matrix/test_publishing.py::test_a_refusal_for_another_reason_is_not_passed_over",
        ),
    ),
    Trap(
        "3.3-check-url",
        "A file without any digest is an error for `uv publish --check-url`; ours have one.",
        ("clients/test_publishing.py::test_check_url_skips_what_is_there_and_refuses_what_differs",),
    ),
    Trap(
        "3.3-hatch",
        "hatch looks at `+simple` for own files, as HTML.",
        (
            "web/test_own_page.py::test_own_files_are_listed_and_their_links_lead_to_them",
            "web/test_own_page.py::test_it_is_html_whatever_is_asked_for",
            "clients/matrix/test_publishing.py::test_hatch_finds_its_files_at_simple_and_sends_none_again_be_they_the_same_or_not",
        ),
    ),
    Trap(
        "3.4-dist-info",
        "A dist-info directory may be spelled otherwise than the filename, but there is one.",
        (
            "archive/test_inspect.py::test_spelling_makes_no_difference",
            "archive/test_inspect.py::test_two_dist_infos_are_refused",
        ),
    ),
    Trap(
        "3.4-file-not-form",
        "What the index says comes from the file, not from the form.",
        ("web/test_upload.py::test_what_the_index_says_comes_from_the_file_and_not_from_the_form",),
    ),
    Trap(
        "3.5-no-issuer",
        "Without issuers, trusted publishing is a plain 404 at once, and so is PEP 807's address.",
        (
            "web/test_oidc.py::test_without_issuers_both_addresses_are_a_plain_404",
            "protocol/test_attacks.py::test_T_PATH_what_is_no_address_is_404_and_told_harmlessly",
        ),
    ),
    Trap(
        "3.5-reuse",
        "An identity token is exchanged once.",
        (
            "web/test_oidc.py::test_the_same_identity_token_is_exchanged_once",
            "identity/test_minting.py::test_an_identity_token_is_taken_once",
        ),
    ),
    Trap(
        "4.1-user-agent",
        "The JSON in a User-Agent is not trusted and makes no line of its own in the log.",
        ("web/test_app.py::test_every_line_of_the_log_is_one_JSON_object_whatever_clients_send",),
    ),
    Trap(
        "4.1-pip-tools",
        "pip-compile asks `/{name}/json` for digests.",
        ("web/test_json_api.py::test_pip_compile_finds_the_digests_of_a_version",),
    ),
    Trap(
        "4.2-head",
        "HEAD of a file tells size and ranges; a 5xx is fatal for uv.",
        (
            "web/test_files.py::test_a_warm_HEAD_tells_size_and_ranges",
            "web/test_files.py::test_a_cold_HEAD_tells_the_size_and_promises_no_ranges",
            "web/test_files.py::test_a_cold_HEAD_of_a_file_whose_size_nobody_names_still_succeeds",
        ),
    ),
    Trap(
        "4.2-ranges",
        "`a-b`, `a-`, `-N`, N beyond the size and 416 are as RFC 9110 has them.",
        (
            "web/test_files.py::test_a_range_of_a_file_on_disk",
            "web/test_files.py::test_a_range_behind_the_end_is_416",
            "web/test_files.py::test_a_range_that_cannot_be_read_is_ignored",
        ),
    ),
    Trap(
        "4.2-if-range",
        "A part is given only of the very same file.",
        (
            "web/test_files.py::test_If_Range_gives_a_part_only_of_the_very_same_file",
            "clients/matrix/test_traps.py::test_pip_goes_on_where_a_transfer_broke_off",
        ),
    ),
    Trap(
        "4.3-max-age",
        "pip from 26.2 obeys `max-age` on pages: ours are revalidated each time.",
        (
            "web/test_simple.py::test_a_page_has_exactly_the_headers_of_the_contract",
            "web/test_simple.py::test_an_upload_is_seen_at_once_whatever_was_shown_before",
            "clients/test_smoke.py::test_the_newest_pip_sees_a_private_version_at_once_and_revalidates_by_304",
        ),
    ),
    Trap(
        "4.3-weak-etag",
        "uv never sends a weak validator, so ours are strong.",
        (
            "index/test_variants.py::test_tags_are_strong_quoted_and_plain_ascii",
            "web/test_simple.py::test_every_representation_and_coding_has_a_tag_of_its_own",
        ),
    ),
    Trap(
        "4.3-no-cache",
        "A client's `no-cache` or `max-age=0` does not reach the upstream.",
        (
            "protocol/test_upstream_traffic.py::test_no_order_of_a_client_reaches_an_upstream_or_costs_it_a_request",
            "clients/matrix/test_traps.py::test_a_clients_order_not_to_use_caches_does_not_reach_the_upstream",
        ),
    ),
    Trap(
        "4.3-errors-uncached",
        "No error is kept by a client.",
        (
            "web/test_matrix.py::test_an_upstream_that_fails_is_never_not_found",
            "web/test_matrix.py::test_a_denied_name_is_refused",
        ),
    ),
    Trap(
        "4.4-retry-after",
        "pip sleeps for the whole of `Retry-After`, so it is short.",
        (
            "protocol/test_confusion.py::test_T_CONF7_an_upstream_in_trouble_leaves_private_names_alone_and_is_no_404",
            "domain/test_decide.py::test_trouble_is_told_with_a_short_wait_and_never_as_unknown",
            "web/test_throttle.py::test_failures_beyond_the_limit_are_told_to_wait_a_little",
        ),
    ),
    Trap(
        "4.5-401-everywhere",
        "uv with netrc asks anonymously first: every path of a private namespace is 401.",
        (
            "clients/matrix/test_traps.py::test_uv_takes_credentials_from_netrc_because_every_path_asks_for_them",
            "clients/test_private_names.py::test_public_and_private_packages_install_together_with_nothing_but_a_netrc",
        ),
    ),
    Trap(
        "4.5-404-after",
        "Who may not know of something gets 404, after credentials.",
        (
            "web/test_matrix.py::test_a_namespace_that_the_caller_may_not_see_is_404",
            "web/test_matrix.py::test_an_unseen_namespace_answers_as_one_that_does_not_exist",
        ),
    ),
    Trap(
        "5-urls",
        "No address in a JSON document leads past us.",
        (
            "web/test_json_api.py::test_an_upstream_package_has_documents_that_lead_back_to_us",
            "index/test_documents.py::test_a_hostile_document_adds_no_file_and_no_address",
        ),
    ),
    Trap(
        "5-slash-and-404",
        "A slash at the end is redirected, and a 404 is PyPI's.",
        (
            "web/test_json_api.py::test_a_slash_at_the_end_redirects_to_the_address_without",
            "web/test_json_api.py::test_T_CONF9_a_name_that_nobody_has_is_404",
        ),
    ),
    Trap(
        "5-version",
        "A version is matched as PEP 440 has it; the shown one is not yanked, final, highest.",
        (
            "web/test_json_api.py::test_versions_are_matched_as_pep_440_has_it",
            "domain/test_documents.py::test_not_yanked_then_final_then_highest_stands_for_the_project",
        ),
    ),
    Trap(
        "6.1-age",
        "A page is as old as the upstream's `Age` and our keeping make it.",
        (
            "upstream/test_client.py::test_age_shortens_max_age",
            "upstream/test_client.py::test_cache_control_says_how_long_a_page_may_be_kept",
        ),
    ),
    Trap(
        "6.1-stale",
        (
            "Stale pages are shown while they are revalidated and while the upstream fails, for a "
            "bounded time."
        ),
        (
            "cache/test_pages.py::test_a_stale_page_is_shown_at_once_and_revalidated_behind",
            "cache/test_pages.py::test_while_the_upstream_fails_the_old_page_is_shown",
            "cache/test_pages.py::test_too_old_a_page_is_not_shown",
        ),
    ),
    Trap(
        "6.2-negative",
        "Trouble is never kept as absence, and absence only for a short time.",
        (
            "cache/test_pages.py::test_trouble_without_a_page_is_told_to_all_and_not_kept",
            "cache/test_pages.py::test_absence_is_kept_for_a_short_time",
        ),
    ),
    Trap(
        "6.2-etag",
        "JSON, HTML and codings never share a validator.",
        (
            "web/test_simple.py::test_every_representation_and_coding_has_a_tag_of_its_own",
            "web/test_simple.py::test_a_tag_of_one_representation_does_not_match_another",
        ),
    ),
    Trap(
        "6.2-publish",
        "A publication takes effect whole and at once, also against an answer under way.",
        (
            "faults/test_asks_again.py::test_a_publication_during_the_wait_for_the_page_counts",
            "faults/test_kills.py::test_killed_during_uploads_each_is_there_as_a_whole_or_not_at_all",
        ),
    ),
    Trap(
        "6.3-hold-back",
        "The end of a file is held back until its digest is right; else the connection breaks.",
        (
            "cache/test_files.py::test_nobody_gets_the_last_64_KiB_before_they_are_verified",
            "faults/test_transfers.py::test_wrong_bytes_are_never_a_whole_file",
            "web/test_files.py::test_bytes_with_a_wrong_digest_never_arrive_whole",
        ),
    ),
    Trap(
        "6.3-range-unverified",
        "A range of a file that is not verified is not served from what has come.",
        (
            "web/test_files.py::test_a_range_of_a_file_that_is_not_here_yet_waits_for_it",
            "web/test_files.py::test_a_range_of_a_wrong_file_that_is_not_here_yet_is_never_served",
            "web/test_files.py::test_a_range_of_a_file_that_comes_slowly_gets_all_of_it",
        ),
    ),
    Trap(
        "6.3-short-body",
        "A body that ends early is never taken for the file, however it is framed.",
        (
            "faults/test_transfers.py::test_a_host_that_lies_about_a_file_never_gets_it_served",
            "web/test_files.py::test_a_file_that_ends_too_early_is_never_taken_for_whole",
        ),
    ),
    Trap(
        "6.3-one-transfer",
        "One transfer serves all; who leaves or is slow hinders nobody.",
        (
            "faults/test_transfers.py::test_fifty_clients_of_one_cold_file_cost_the_upstream_one_request",
            "faults/test_transfers.py::test_a_client_that_leaves_does_not_stop_the_fill",
            "faults/test_transfers.py::test_a_slow_reader_holds_up_nobody",
        ),
    ),
    Trap(
        "8-decoded-slash",
        "A router's decoding lets `%2F` and control characters through, so addresses are split before.",
        (
            "protocol/test_attacks.py::test_T_PATH_what_is_no_address_is_404_and_told_harmlessly",
            "domain/test_addresses.py::test_any_bytes_are_some_address_in_both_ways_of_decoding",
        ),
    ),
    Trap(
        "8-reason-phrase",
        "A CR or LF in a reason phrase would be a 500, which twine repeats.",
        ("web/test_problems.py::test_T_UP8_no_text_gets_out_of_the_reason_phrase",),
    ),
    Trap(
        "8-json-charset",
        "aiohttp adds a charset to JSON, and uv then shows raw JSON.",
        ("web/test_upload.py::test_a_refusal_is_bare_JSON_for_those_who_ask_for_it",),
    ),
    Trap(
        "8-file-etag",
        "A file's validator is its content's, and its type never guessed.",
        (
            "web/test_files.py::test_a_file_on_disk_has_exactly_the_headers_of_the_contract",
            "web/test_files.py::test_a_file_that_the_client_has_is_304",
        ),
    ),
    Trap(
        "8-upload-size",
        "The size of an upload is counted by us.",
        (
            "web/test_upload.py::test_a_file_over_the_limit_is_413_and_the_client_gets_to_see_it",
            "web/test_upload.py::test_a_body_far_over_the_limit_is_413_after_all_of_it_was_read",
            "faults/test_large_files.py::test_memory_does_not_grow_with_the_file",
        ),
    ),
    Trap(
        "9.1-negotiation",
        "The vectors of negotiation.",
        (
            "protocol/test_negotiation.py::test_the_type_that_is_sent",
            "protocol/test_negotiation.py::test_format_wins_over_Accept_where_it_is_known",
        ),
    ),
    Trap(
        "9.2-names",
        "The vectors of names, at every place that takes one.",
        (
            "protocol/test_names.py::test_T_NAME1_every_spelling_leads_to_the_one_page",
            "protocol/test_names.py::test_T_NAME2_T_NAME3_what_is_no_name_is_404_on_every_route",
            "protocol/test_names.py::test_T_NAME2_T_NAME3_what_is_no_name_is_neither_uploaded_nor_administered",
        ),
    ),
    Trap(
        "9.3-filenames",
        "The vectors of filenames, at every place that takes one.",
        (
            "protocol/test_filenames.py::test_a_filename_is_published_or_refused",
            "protocol/test_filenames.py::test_a_filename_of_an_upstream_is_listed_and_served_or_left_out",
            "protocol/test_filenames.py::test_what_is_no_filename_has_no_address_and_is_asked_of_nobody",
        ),
    ),
)


def table() -> Iterator[str]:
    """Yield the lines of the register as a table in Markdown; tests are told with their module, without its folder."""
    yield "| trap | what holds | tests | not yet |"
    yield "|---|---|---|---|"
    for trap in TRAPS:
        shown = "<br>".join(f"`{test.rpartition('/')[2]}`" for test in trap.tests)
        holds = trap.holds.replace("|", "\\|")
        yield f"| {trap.id} | {holds} | {shown} | {trap.not_yet} |"


if __name__ == "__main__":
    for line in table():
        print(line)
