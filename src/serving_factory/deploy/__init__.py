"""An image as a service: manifests for Kubernetes, files for compose."""
