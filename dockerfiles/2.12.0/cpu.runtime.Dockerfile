# TensorFlow Serving 2.12.0, cpu: the slim image that serves.
# Made by `./factory generate` from dockerfiles/templates/runtime; do not edit.

# What the compile stage left. The build names its folder: --build-context artifact=FOLDER
FROM scratch AS artifact

FROM ubuntu:20.04

# From what changes rarely to what changes often. Not --link: where the base's /lib is a symbolic link and a library came
# from a real /lib, --link would put a folder in the place of the link.
COPY --from=artifact rootfs/ /
# --link: where the builder can keep layers apart from the base (it needs the containerd image store, or a builder in a
# container), these stay the same on another base and are not pushed again. Elsewhere it does nothing.
COPY --link --chmod=0755 tf_serving_entrypoint.sh tf_serving_health.sh /usr/bin/
COPY --link --chmod=0755 --from=artifact tensorflow_model_server /usr/bin/
COPY --link --chmod=0644 image.env image.json /usr/share/serving-factory/

# WORKDIR makes the folder, without a shell. Models are mounted into it or copied there by an image built on this one.
WORKDIR /models
WORKDIR /

ENV MODEL_NAME=model \
    MODEL_BASE_PATH=/models

# 8500 gRPC, 8501 REST
EXPOSE 8500 8501

# A number, so that Kubernetes can tell that it is not root (runAsNonRoot). Any other user will do as well.
USER 65532:65532

# A big model takes minutes to load. Until the start period is over only success counts.
HEALTHCHECK --interval=10s --timeout=5s --start-period=300s --retries=3 \
    CMD ["/usr/bin/tf_serving_health.sh"]

STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/bin/tf_serving_init", "/usr/bin/tf_serving_entrypoint.sh"]
