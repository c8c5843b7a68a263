# The board side of irepdeploy in a container: everything it needs on a Jetson with JetPack 5, without further installation.
# irepdeploy itself runs on your desk machine and reaches the container over ssh.
#
# BASE is an NVIDIA image from the NGC catalogue with TensorRT and its Python bindings for the board's L4T
# (r35: TensorRT 8.5, Python 3.8), such as l4t-tensorrt:r8.5.2-runtime. On the board:
#
#     docker build -f docker/jetson-jp5.Dockerfile --build-arg BASE=... -t irepdeploy-board .
#     docker run --rm --runtime nvidia -p 2222:22 -v ~/.ssh/authorized_keys:/keys:ro irepdeploy-board
#
# On the desk machine, with "Host boxed", "HostName BOARD", "Port 2222", "User user"
# in ~/.ssh/config:
#
#     irepdeploy jetson check boxed
#     irepdeploy jetson bench boxed model.onnx --clocks as-is
#
# Power modes, clocks and power sensors belong to the board itself: --mode, --clocks max and --power do not work here.
# Linted, but not yet built or run, for lack of a board.
ARG BASE
# hadolint ignore=DL3006
FROM ${BASE}
# The base image is chosen by the caller, so package versions cannot be pinned here.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends openssh-server python3 python3-numpy \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --groups video --shell /bin/bash user \
    && mkdir -p /run/sshd
EXPOSE 22
# sshd starts as root because it opens sessions of other users; root logins and passwords are disabled.
# hadolint ignore=DL3002
USER 0
# An ssh session does not inherit the environment variables of the image.
CMD ["/bin/sh", "-c", "install -d -m 700 -o user ~user/.ssh && install -m 600 -o user /keys ~user/.ssh/authorized_keys && exec /usr/sbin/sshd -D -e -o PasswordAuthentication=no -o PermitRootLogin=no -o \"SetEnv=PATH=$PATH LD_LIBRARY_PATH=$LD_LIBRARY_PATH\""]
