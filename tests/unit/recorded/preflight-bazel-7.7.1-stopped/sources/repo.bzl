def _impl(ctx):
    ctx.download_and_extract(ctx.attr.urls, "", ctx.attr.sha256, "", ctx.attr.strip_prefix)
tf_http_archive = repository_rule(implementation=_impl, attrs={"urls": attr.string_list(mandatory=True), "sha256": attr.string(mandatory=True), "strip_prefix": attr.string()})
