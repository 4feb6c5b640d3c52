//! What `wit-bindgen` makes of the contract in `wit/`.
//!
//! One module for the imports and one per hook, because a component exports exactly the interfaces whose
//! type sections are linked: a hook that `plugin!` does not name leaves no trace in the component. Nothing
//! outside this crate's adapters uses these types; plugin authors see the natural ones of the hook modules.

pub mod capabilities {
    wit_bindgen::generate!({
        path: "wit",
        world: "tidegate:plugin/capabilities",
        runtime_path: "::tidegate_sdk::__private::runtime",
        default_bindings_module: "tidegate_sdk::__private::capabilities",
        type_section_suffix: "-capabilities",
    });
}

pub mod authentication {
    wit_bindgen::generate!({
        path: "wit",
        inline: "package tidegate:sdk; world authentication { export tidegate:plugin/authentication@0.1.0; }",
        world: "tidegate:sdk/authentication",
        runtime_path: "::tidegate_sdk::__private::runtime",
        default_bindings_module: "tidegate_sdk::__private::authentication",
        type_section_suffix: "-authentication",
        pub_export_macro: true,
        export_macro_name: "export_authentication",
    });
}

pub mod authorization {
    wit_bindgen::generate!({
        path: "wit",
        inline: "package tidegate:sdk; world authorization { export tidegate:plugin/authorization@0.1.0; }",
        world: "tidegate:sdk/authorization",
        runtime_path: "::tidegate_sdk::__private::runtime",
        default_bindings_module: "tidegate_sdk::__private::authorization",
        type_section_suffix: "-authorization",
        pub_export_macro: true,
        export_macro_name: "export_authorization",
    });
}

pub mod filtering {
    wit_bindgen::generate!({
        path: "wit",
        inline: "package tidegate:sdk; world filtering { export tidegate:plugin/filtering@0.1.0; }",
        world: "tidegate:sdk/filtering",
        runtime_path: "::tidegate_sdk::__private::runtime",
        default_bindings_module: "tidegate_sdk::__private::filtering",
        type_section_suffix: "-filtering",
        pub_export_macro: true,
        export_macro_name: "export_filtering",
    });
}

pub mod routing {
    wit_bindgen::generate!({
        path: "wit",
        inline: "package tidegate:sdk; world routing { export tidegate:plugin/routing@0.1.0; }",
        world: "tidegate:sdk/routing",
        runtime_path: "::tidegate_sdk::__private::runtime",
        default_bindings_module: "tidegate_sdk::__private::routing",
        type_section_suffix: "-routing",
        pub_export_macro: true,
        export_macro_name: "export_routing",
    });
}

pub mod rpc {
    wit_bindgen::generate!({
        path: "wit",
        inline: "package tidegate:sdk; world rpc { export tidegate:plugin/rpc@0.1.0; }",
        world: "tidegate:sdk/rpc",
        runtime_path: "::tidegate_sdk::__private::runtime",
        default_bindings_module: "tidegate_sdk::__private::rpc",
        type_section_suffix: "-rpc",
        pub_export_macro: true,
        export_macro_name: "export_rpc",
    });
}

pub mod events {
    wit_bindgen::generate!({
        path: "wit",
        inline: "package tidegate:sdk; world events { export tidegate:plugin/events@0.1.0; }",
        world: "tidegate:sdk/events",
        runtime_path: "::tidegate_sdk::__private::runtime",
        default_bindings_module: "tidegate_sdk::__private::events",
        type_section_suffix: "-events",
        pub_export_macro: true,
        export_macro_name: "export_events",
    });
}

pub mod settings {
    wit_bindgen::generate!({
        path: "wit",
        inline: "package tidegate:sdk; world settings { export tidegate:plugin/settings@0.1.0; }",
        world: "tidegate:sdk/settings",
        runtime_path: "::tidegate_sdk::__private::runtime",
        default_bindings_module: "tidegate_sdk::__private::settings",
        type_section_suffix: "-settings",
        pub_export_macro: true,
        export_macro_name: "export_settings",
    });
}

pub mod schedule {
    wit_bindgen::generate!({
        path: "wit",
        inline: "package tidegate:sdk; world schedule { export tidegate:plugin/schedule@0.1.0; }",
        world: "tidegate:sdk/schedule",
        runtime_path: "::tidegate_sdk::__private::runtime",
        default_bindings_module: "tidegate_sdk::__private::schedule",
        type_section_suffix: "-schedule",
        pub_export_macro: true,
        export_macro_name: "export_schedule",
    });
}
