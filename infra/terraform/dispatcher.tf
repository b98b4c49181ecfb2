# Dispatchers: one on each EC2 host, driving that host's Docker, as on a machine of one's own. A task costs no call
# to AWS but its results' PUT.
#
# ECS places them, a capacity provider has as many hosts as there are dispatchers. A host that is to go is drained
# first: its dispatcher claims nothing more, lets what runs end for grace_seconds, and leaves its group.

locals {
  state_dir    = "/var/lib/mayfly"
  stop_seconds = var.grace_seconds + 20

  dispatcher_settings = merge(local.settings, local.engine_settings, local.function_settings, {
    MAYFLY_SLOTS                      = tostring(var.dispatcher.slots)
    MAYFLY_GRACE_SECONDS              = tostring(var.grace_seconds)
    MAYFLY_DISPATCHER_HOST            = "127.0.0.1"
    MAYFLY_DISPATCHER_PORT            = tostring(local.ports.dispatcher)
    MAYFLY_STATE_DIR                  = local.state_dir
    MAYFLY_RUNTIME                    = "docker"
    MAYFLY_RETENTION_DAYS             = tostring(var.retention_days)
    MAYFLY_DEAD_LETTER_RETENTION_DAYS = tostring(var.dead_letter_retention_days)
    MAYFLY_EGRESS_ALLOW               = join(",", var.egress_allow)
  })
  dispatcher_secrets = ["MAYFLY_HEARTBEAT_KEY", "MAYFLY_REDIS"]
}

# --- hosts

data "aws_ssm_parameter" "host_image" {
  count = var.host_image_id == null ? 1 : 0

  name = "/aws/service/ecs/optimized-ami/amazon-linux-2023/recommended/image_id"
}

resource "aws_launch_template" "host" {
  name          = "${var.name}-host"
  description   = "A host of one dispatcher of ${var.name}"
  image_id      = var.host_image_id != null ? var.host_image_id : nonsensitive(data.aws_ssm_parameter.host_image[0].value)
  instance_type = var.dispatcher.instance_type
  ebs_optimized = true

  update_default_version = true

  user_data = base64encode(templatefile("${path.module}/templates/host.sh.tftpl", {
    cluster      = aws_ecs_cluster.this.name
    state_dir    = local.state_dir
    stop_seconds = local.stop_seconds
  }))

  iam_instance_profile {
    arn = aws_iam_instance_profile.host.arn
  }

  # By tokens only, and these do not survive a hop: no bridge leads there.
  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
    http_protocol_ipv6          = "disabled"
    instance_metadata_tags      = "disabled"
  }

  network_interfaces {
    associate_public_ip_address = false
    delete_on_termination       = true
    security_groups             = [aws_security_group.dispatcher.id]
  }

  block_device_mappings {
    device_name = "/dev/xvda"

    ebs {
      volume_type           = "gp3"
      volume_size           = var.dispatcher.disk_gib
      encrypted             = true
      delete_on_termination = true
    }
  }

  monitoring {
    enabled = true
  }

  tag_specifications {
    resource_type = "instance"
    tags          = merge(local.tags, { Name = "${var.name}-host" })
  }

  tag_specifications {
    resource_type = "volume"
    tags          = merge(local.tags, { Name = "${var.name}-host" })
  }

  tags = local.tags
}

resource "aws_autoscaling_group" "hosts" {
  name                = "${var.name}-hosts"
  min_size            = 0
  max_size            = 2 * var.dispatcher.max # a deployment brings new ones before old ones go
  vpc_zone_identifier = [for subnet in aws_subnet.private : subnet.id]
  health_check_type   = "EC2"

  # ECS says which may go, and when.
  protect_from_scale_in = true

  launch_template {
    id      = aws_launch_template.host.id
    version = aws_launch_template.host.latest_version
  }

  # Another image, or another setting of hosts: each is drained and made anew, a new one before the old one.
  instance_refresh {
    strategy = "Rolling"

    preferences {
      min_healthy_percentage       = 100
      max_healthy_percentage       = 150
      scale_in_protected_instances = "Refresh"
    }
  }

  dynamic "tag" {
    for_each = merge(local.tags, { AmazonECSManaged = "true" })

    content {
      key                 = tag.key
      value               = tag.value
      propagate_at_launch = true
    }
  }

  lifecycle {
    # The capacity provider has the last word.
    ignore_changes = [desired_capacity]
  }

  depends_on = [aws_iam_role_policy.host]
}

resource "aws_ecs_capacity_provider" "hosts" {
  name = "${var.name}-hosts"

  auto_scaling_group_provider {
    auto_scaling_group_arn         = aws_autoscaling_group.hosts.arn
    managed_draining               = "ENABLED"
    managed_termination_protection = "ENABLED"

    managed_scaling {
      status                    = "ENABLED"
      target_capacity           = 100 # no host without a dispatcher
      minimum_scaling_step_size = 1
      maximum_scaling_step_size = 10
      instance_warmup_period    = 60
    }
  }

  tags = local.tags
}

# --- the service

resource "aws_ecs_task_definition" "dispatcher" {
  family                   = "${var.name}-dispatcher"
  requires_compatibilities = ["EC2"]
  # Address rules for sandboxes are the host's, and so is the metadata that its role comes from.
  network_mode       = "host"
  execution_role_arn = aws_iam_role.execution["dispatcher"].arn
  task_role_arn      = aws_iam_role.task["dispatcher"].arn

  container_definitions = jsonencode([{
    name      = "dispatcher"
    image     = local.image
    command   = ["python", "-P", "-m", "dispatcher"]
    essential = true
    # The dispatcher alone: its sandboxes are the engine's, and have the rest of the host.
    cpu               = 512
    memoryReservation = 512
    # Root, and no more of it than what setting address rules takes. Who holds the engine's socket has the host anyway:
    # nothing else runs there.
    user                   = "0:0"
    privileged             = false
    readonlyRootFilesystem = true
    linuxParameters = {
      initProcessEnabled = true
      capabilities       = { drop = ["ALL"], add = ["NET_ADMIN"] }
      tmpfs              = [{ containerPath = "/tmp", size = 64, mountOptions = ["nosuid", "nodev"] }]
    }
    stopTimeout = local.stop_seconds
    mountPoints = [
      { sourceVolume = "docker", containerPath = "/var/run/docker.sock", readOnly = false },
      { sourceVolume = "state", containerPath = local.state_dir, readOnly = false },
    ]
    ulimits     = [{ name = "nofile", softLimit = 65536, hardLimit = 65536 }]
    environment = [for name, value in local.dispatcher_settings : { name = name, value = value } if value != ""]
    secrets     = [for name in local.dispatcher_secrets : { name = name, valueFrom = aws_secretsmanager_secret.setting[name].arn }]
    healthCheck = {
      command     = ["CMD", "python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:${local.ports.dispatcher}/healthz', timeout=4)"]
      interval    = 15
      timeout     = 5
      retries     = 4
      startPeriod = 60
    }
    logConfiguration = {
      logDriver = "awslogs"
      options = {
        awslogs-group         = aws_cloudwatch_log_group.this["dispatcher"].name
        awslogs-region        = local.region
        awslogs-stream-prefix = "dispatcher"
      }
    }
  }])

  volume {
    name      = "docker"
    host_path = "/var/run/docker.sock"
  }

  volume {
    name      = "state"
    host_path = local.state_dir
  }

  tags = local.tags
}

resource "aws_ecs_service" "dispatcher" {
  name            = "dispatcher"
  cluster         = aws_ecs_cluster.this.id
  task_definition = aws_ecs_task_definition.dispatcher.arn
  desired_count   = var.dispatcher.min
  propagate_tags  = "SERVICE"

  # A new one first: the partitions of one that goes find an owner at once.
  deployment_minimum_healthy_percent = 100
  deployment_maximum_percent         = 200

  deployment_circuit_breaker {
    enable   = true
    rollback = true
  }

  capacity_provider_strategy {
    capacity_provider = aws_ecs_capacity_provider.hosts.name
    weight            = 1
  }

  placement_constraints {
    type = "distinctInstance"
  }

  ordered_placement_strategy {
    type  = "spread"
    field = "attribute:ecs.availability-zone"
  }

  tags = local.tags

  lifecycle {
    # Autoscaling has the last word.
    ignore_changes = [desired_count]

    precondition {
      condition     = var.dispatcher.max <= var.partitions
      error_message = "dispatcher.max is more than partitions: a dispatcher without a partition has nothing to do."
    }
  }

  depends_on = [
    aws_ecs_cluster_capacity_providers.this, aws_iam_role_policy.task, aws_iam_role_policy.execution,
    aws_secretsmanager_secret_version.setting,
  ]
}
