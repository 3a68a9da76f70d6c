/* Every path of the API. Sources: AWS Lambda API Reference, "Actions". */
#include "api_internal.h"
#include "common/bytes.h"

enum { JSON = API_JSON_MAX_BYTES, NO_BODY = 64 << 10 };

#define OPERATION(identifier, handler, where, limit, more)                                         \
    static const struct api_operation identifier = {#identifier, handler, where, limit, more}

OPERATION(CreateFunction, handle_create_function, HTTP_LONG, API_CODE_MAX_BYTES, 0);
OPERATION(GetFunction, handle_get_function, HTTP_INLINE, NO_BODY, 0);
OPERATION(GetFunctionConfiguration, handle_get_configuration, HTTP_INLINE, NO_BODY, 0);
OPERATION(ListFunctions, handle_list_functions, HTTP_INLINE, NO_BODY, 0);
OPERATION(UpdateFunctionCode, handle_update_code, HTTP_LONG, API_CODE_MAX_BYTES, 0);
OPERATION(UpdateFunctionConfiguration, handle_update_configuration, HTTP_SHORT, JSON, 0);
OPERATION(DeleteFunction, handle_delete_function, HTTP_SHORT, NO_BODY, 0);
OPERATION(PublishVersion, handle_publish_version, HTTP_SHORT, JSON, 0);
OPERATION(ListVersionsByFunction, handle_list_versions, HTTP_INLINE, NO_BODY, 0);
OPERATION(CreateAlias, handle_create_alias, HTTP_SHORT, JSON, 0);
OPERATION(GetAlias, handle_get_alias, HTTP_INLINE, NO_BODY, 0);
OPERATION(UpdateAlias, handle_update_alias, HTTP_SHORT, JSON, 0);
OPERATION(DeleteAlias, handle_delete_alias, HTTP_SHORT, NO_BODY, 0);
OPERATION(ListAliases, handle_list_aliases, HTTP_INLINE, NO_BODY, 0);
OPERATION(PutFunctionConcurrency, handle_put_concurrency, HTTP_SHORT, JSON, 0);
OPERATION(GetFunctionConcurrency, handle_get_concurrency, HTTP_INLINE, NO_BODY, 0);
OPERATION(DeleteFunctionConcurrency, handle_delete_concurrency, HTTP_SHORT, NO_BODY, 0);
OPERATION(PutProvisionedConcurrencyConfig, handle_put_provisioned, HTTP_SHORT, JSON, 0);
OPERATION(GetProvisionedConcurrencyConfig, handle_get_provisioned, HTTP_INLINE, NO_BODY, 0);
OPERATION(DeleteProvisionedConcurrencyConfig, handle_delete_provisioned, HTTP_SHORT, NO_BODY, 0);
OPERATION(CreateFunctionUrlConfig, handle_create_url, HTTP_SHORT, JSON, 0);
OPERATION(GetFunctionUrlConfig, handle_get_url, HTTP_INLINE, NO_BODY, 0);
OPERATION(UpdateFunctionUrlConfig, handle_update_url, HTTP_SHORT, JSON, 0);
OPERATION(DeleteFunctionUrlConfig, handle_delete_url, HTTP_SHORT, NO_BODY, 0);
OPERATION(ListFunctionUrlConfigs, handle_list_urls, HTTP_INLINE, NO_BODY, 0);
OPERATION(ListTags, handle_list_tags, HTTP_INLINE, NO_BODY, 0);
OPERATION(TagResource, handle_tag, HTTP_SHORT, JSON, 0);
OPERATION(UntagResource, handle_untag, HTTP_SHORT, NO_BODY, 0);
OPERATION(GetAccountSettings, handle_account_settings, HTTP_INLINE, NO_BODY, 0);
OPERATION(PutFunctionEventInvokeConfig, handle_put_event_config, HTTP_SHORT, JSON, 0);
OPERATION(UpdateFunctionEventInvokeConfig, handle_update_event_config, HTTP_SHORT, JSON, 0);
OPERATION(GetFunctionEventInvokeConfig, handle_get_event_config, HTTP_INLINE, NO_BODY, 0);
OPERATION(DeleteFunctionEventInvokeConfig, handle_delete_event_config, HTTP_SHORT, NO_BODY, 0);
OPERATION(ListFunctionEventInvokeConfigs, handle_list_event_configs, HTTP_INLINE, NO_BODY, 0);
OPERATION(AddPermission, handle_add_permission, HTTP_SHORT, JSON, 0);
OPERATION(GetPolicy, handle_get_policy, HTTP_INLINE, NO_BODY, 0);
OPERATION(RemovePermission, handle_remove_permission, HTTP_SHORT, NO_BODY, 0);
OPERATION(GetFunctionCodeSigningConfig, handle_get_code_signing, HTTP_INLINE, NO_BODY, 0);
OPERATION(PutFunctionCodeSigningConfig, handle_refuse_code_signing, HTTP_INLINE, NO_BODY, 0);
OPERATION(DeleteFunctionCodeSigningConfig, handle_delete_code_signing, HTTP_INLINE, NO_BODY, 0);
OPERATION(ListCodeSigningConfigs, handle_list_code_signing, HTTP_INLINE, NO_BODY, 0);
OPERATION(CreateCodeSigningConfig, handle_refuse_code_signing, HTTP_INLINE, NO_BODY, 0);
OPERATION(GetRuntimeManagementConfig, handle_get_runtime_management, HTTP_INLINE, NO_BODY, 0);
OPERATION(PutRuntimeManagementConfig, handle_put_runtime_management, HTTP_INLINE, NO_BODY, 0);
OPERATION(GetFunctionRecursionConfig, handle_get_recursion, HTTP_INLINE, NO_BODY, 0);
OPERATION(PutFunctionRecursionConfig, handle_put_recursion, HTTP_INLINE, NO_BODY, 0);
OPERATION(ListEventSourceMappings, handle_list_event_sources, HTTP_INLINE, NO_BODY, 0);
OPERATION(CreateEventSourceMapping, handle_refuse_event_source, HTTP_INLINE, NO_BODY, 0);
OPERATION(GetEventSourceMapping, handle_not_there, HTTP_INLINE, NO_BODY, 0);
OPERATION(UpdateEventSourceMapping, handle_not_there, HTTP_INLINE, NO_BODY, 0);
OPERATION(DeleteEventSourceMapping, handle_not_there, HTTP_INLINE, NO_BODY, 0);
OPERATION(ListLayers, handle_list_layers, HTTP_INLINE, NO_BODY, 0);
OPERATION(ListLayerVersions, handle_list_layer_versions, HTTP_INLINE, NO_BODY, 0);
OPERATION(PublishLayerVersion, handle_refuse_layer, HTTP_INLINE, API_CODE_MAX_BYTES, 0);
OPERATION(GetLayerVersion, handle_not_there, HTTP_INLINE, NO_BODY, 0);
OPERATION(DeleteLayerVersion, handle_delete_layer, HTTP_INLINE, NO_BODY, 0);
OPERATION(Sts, handle_sts, HTTP_INLINE, 8 << 10, API_PUBLIC);
OPERATION(Invoke, handle_invoke, HTTP_LONG, API_INVOKE_MAX_BYTES, API_INVOKES);
OPERATION(InvokeAsync, handle_invoke_async, HTTP_SHORT, API_EVENT_MAX_BYTES, API_INVOKES);
OPERATION(InvokeWithResponseStream, handle_invoke_stream, HTTP_LONG, API_INVOKE_MAX_BYTES,
          API_INVOKES);
OPERATION(FunctionUrl, handle_function_url, HTTP_LONG, API_INVOKE_MAX_BYTES, API_PUBLIC);
OPERATION(CodeLink, handle_code_link, HTTP_SHORT, NO_BODY, API_PUBLIC);
OPERATION(Health, handle_health, HTTP_INLINE, NO_BODY, API_PUBLIC);
OPERATION(Ready, handle_ready, HTTP_SHORT, NO_BODY, API_PUBLIC);
OPERATION(GetLogs, handle_logs, HTTP_SHORT, NO_BODY, 0);
OPERATION(DeleteLogs, handle_delete_logs, HTTP_SHORT, NO_BODY, 0);
OPERATION(LogEvents, handle_log_events, HTTP_SHORT, NO_BODY, API_PUBLIC);
OPERATION(Metrics, handle_metrics, HTTP_SHORT, NO_BODY, API_PUBLIC);

#define FUNCTIONS "/2015-03-31/functions"
#define NAME "/{FunctionName}"

/* The most frequent first: the table is read from its start. */
const struct route api_routes[] = {
    {"POST", FUNCTIONS NAME "/invocations", &Invoke},
    {"*", "/url/{Id}/{Rest*}", &FunctionUrl},
    {"*", "/url/{Id}", &FunctionUrl},
    {"POST", "/2021-11-15/functions" NAME "/response-streaming-invocations",
     &InvokeWithResponseStream},
    {"GET", FUNCTIONS, &ListFunctions},
    {"POST", FUNCTIONS, &CreateFunction},
    {"GET", FUNCTIONS NAME, &GetFunction},
    {"DELETE", FUNCTIONS NAME, &DeleteFunction},
    {"GET", FUNCTIONS NAME "/configuration", &GetFunctionConfiguration},
    {"PUT", FUNCTIONS NAME "/configuration", &UpdateFunctionConfiguration},
    {"PUT", FUNCTIONS NAME "/code", &UpdateFunctionCode},
    {"GET", FUNCTIONS NAME "/versions", &ListVersionsByFunction},
    {"POST", FUNCTIONS NAME "/versions", &PublishVersion},
    {"GET", FUNCTIONS NAME "/aliases", &ListAliases},
    {"POST", FUNCTIONS NAME "/aliases", &CreateAlias},
    {"GET", FUNCTIONS NAME "/aliases/{Name}", &GetAlias},
    {"PUT", FUNCTIONS NAME "/aliases/{Name}", &UpdateAlias},
    {"DELETE", FUNCTIONS NAME "/aliases/{Name}", &DeleteAlias},
    {"POST", "/2014-11-13/functions" NAME "/invoke-async", &InvokeAsync},
    {"PUT", "/2017-10-31/functions" NAME "/concurrency", &PutFunctionConcurrency},
    {"DELETE", "/2017-10-31/functions" NAME "/concurrency", &DeleteFunctionConcurrency},
    {"GET", "/2019-09-30/functions" NAME "/concurrency", &GetFunctionConcurrency},
    {"PUT", "/2019-09-30/functions" NAME "/provisioned-concurrency",
     &PutProvisionedConcurrencyConfig},
    {"GET", "/2019-09-30/functions" NAME "/provisioned-concurrency",
     &GetProvisionedConcurrencyConfig},
    {"DELETE", "/2019-09-30/functions" NAME "/provisioned-concurrency",
     &DeleteProvisionedConcurrencyConfig},
    {"POST", "/2021-10-31/functions" NAME "/url", &CreateFunctionUrlConfig},
    {"GET", "/2021-10-31/functions" NAME "/url", &GetFunctionUrlConfig},
    {"PUT", "/2021-10-31/functions" NAME "/url", &UpdateFunctionUrlConfig},
    {"DELETE", "/2021-10-31/functions" NAME "/url", &DeleteFunctionUrlConfig},
    {"GET", "/2021-10-31/functions" NAME "/urls", &ListFunctionUrlConfigs},
    {"PUT", "/2019-09-25/functions" NAME "/event-invoke-config", &PutFunctionEventInvokeConfig},
    {"POST", "/2019-09-25/functions" NAME "/event-invoke-config", &UpdateFunctionEventInvokeConfig},
    {"GET", "/2019-09-25/functions" NAME "/event-invoke-config", &GetFunctionEventInvokeConfig},
    {"DELETE", "/2019-09-25/functions" NAME "/event-invoke-config",
     &DeleteFunctionEventInvokeConfig},
    {"GET", "/2019-09-25/functions" NAME "/event-invoke-config/list",
     &ListFunctionEventInvokeConfigs},
    {"GET", "/2017-03-31/tags/{Resource}", &ListTags},
    {"POST", "/2017-03-31/tags/{Resource}", &TagResource},
    {"DELETE", "/2017-03-31/tags/{Resource}", &UntagResource},
    {"GET", "/2016-08-19/account-settings", &GetAccountSettings},
    {"GET", "/mayfly/v1/functions" NAME "/logs", &GetLogs},
    {"DELETE", "/mayfly/v1/functions" NAME "/logs", &DeleteLogs},
    {"POST", FUNCTIONS NAME "/policy", &AddPermission},
    {"GET", FUNCTIONS NAME "/policy", &GetPolicy},
    {"DELETE", FUNCTIONS NAME "/policy/{StatementId}", &RemovePermission},
    {"GET", "/2020-06-30/functions" NAME "/code-signing-config", &GetFunctionCodeSigningConfig},
    {"PUT", "/2020-06-30/functions" NAME "/code-signing-config", &PutFunctionCodeSigningConfig},
    {"DELETE", "/2020-06-30/functions" NAME "/code-signing-config",
     &DeleteFunctionCodeSigningConfig},
    {"GET", "/2020-04-22/code-signing-configs", &ListCodeSigningConfigs},
    {"POST", "/2020-04-22/code-signing-configs", &CreateCodeSigningConfig},
    {"GET", "/2021-07-20/functions" NAME "/runtime-management-config", &GetRuntimeManagementConfig},
    {"PUT", "/2021-07-20/functions" NAME "/runtime-management-config", &PutRuntimeManagementConfig},
    {"GET", "/2024-08-31/functions" NAME "/recursion-config", &GetFunctionRecursionConfig},
    {"PUT", "/2024-08-31/functions" NAME "/recursion-config", &PutFunctionRecursionConfig},
    {"GET", "/2015-03-31/event-source-mappings", &ListEventSourceMappings},
    {"POST", "/2015-03-31/event-source-mappings", &CreateEventSourceMapping},
    {"GET", "/2015-03-31/event-source-mappings/{UUID}", &GetEventSourceMapping},
    {"PUT", "/2015-03-31/event-source-mappings/{UUID}", &UpdateEventSourceMapping},
    {"DELETE", "/2015-03-31/event-source-mappings/{UUID}", &DeleteEventSourceMapping},
    {"GET", "/2018-10-31/layers", &ListLayers},
    {"GET", "/2018-10-31/layers/{LayerName}/versions", &ListLayerVersions},
    {"POST", "/2018-10-31/layers/{LayerName}/versions", &PublishLayerVersion},
    {"GET", "/2018-10-31/layers/{LayerName}/versions/{VersionNumber}", &GetLayerVersion},
    {"DELETE", "/2018-10-31/layers/{LayerName}/versions/{VersionNumber}", &DeleteLayerVersion},
    {"POST", "/", &LogEvents}, /* and STS: as the request says */
    {"GET", "/", &Sts},
    {"GET", "/healthz", &Health},
    {"GET", "/readyz", &Ready},
    {"GET", "/metrics", &Metrics},
    {"GET", "/code/{Tenant}/{Sha256}", &CodeLink},
};

const size_t api_n_routes = ARRAY_LEN(api_routes);
