# The deployer: builds the functions in an image with the Docker of a host, pushes their images, and writes the
# catalog. It runs once for each version, when it is asked to (output deploy_command), and ends.

resource "aws_ecs_task_definition" "deployer" {
  count = var.functions_tag == null ? 0 : 1

  family                   = "${var.name}-deployer"
  requires_compatibilities = ["EC2"]
  network_mode             = "host"
  execution_role_arn       = aws_iam_role.execution["deployer"].arn
  task_role_arn            = aws_iam_role.task["deployer"].arn

  container_definitions = jsonencode([{
    name      = "deployer"
    image     = "${aws_ecr_repository.this["mayfly"].repository_url}:${var.functions_tag}"
    command   = ["python", "-P", "-m", "mayfly.stack", "deploy", "--dir", "/tmp/deployer", "--functions", "/functions"]
    essential = true
    # Beside a dispatcher, on its host.
    cpu               = 256
    memoryReservation = 256
    # Root for the engine's socket, and nothing more of it.
    user                   = "0:0"
    privileged             = false
    readonlyRootFilesystem = true
    linuxParameters = {
      initProcessEnabled = true
      capabilities       = { drop = ["ALL"] }
      tmpfs              = [{ containerPath = "/tmp", size = 2048, mountOptions = ["nosuid", "nodev"] }]
    }
    mountPoints = [{ sourceVolume = "docker", containerPath = "/var/run/docker.sock", readOnly = false }]
    environment = [for name, value in merge(local.log_settings, local.engine_settings) : { name = name, value = value }]
    secrets     = []
    logConfiguration = {
      logDriver = "awslogs"
      options = {
        awslogs-group         = aws_cloudwatch_log_group.this["deployer"].name
        awslogs-region        = local.region
        awslogs-stream-prefix = "deployer"
      }
    }
  }])

  volume {
    name      = "docker"
    host_path = "/var/run/docker.sock"
  }

  tags = local.tags
}
