# Gateways: on Fargate, behind a load balancer that ends TLS.
#
# Without a certificate the load balancer is an internal one and speaks HTTP: for trying it, by a tunnel.

locals {
  has_domain    = var.domain_name != null
  has_tls       = local.has_domain || var.certificate_arn != null
  listener_port = local.has_tls ? 443 : 80
  ingress_cidrs = length(var.ingress_cidrs) > 0 ? var.ingress_cidrs : [local.has_tls ? "0.0.0.0/0" : var.vpc_cidr]
  certificate   = var.certificate_arn != null ? var.certificate_arn : one(aws_acm_certificate_validation.this[*].certificate_arn)

  gateway_settings = merge(local.settings, {
    MAYFLY_HOST                 = "0.0.0.0"
    MAYFLY_PORT                 = tostring(local.ports.gateway)
    MAYFLY_AUTH                 = "true"
    MAYFLY_FUNCTIONS_REPOSITORY = aws_ecr_repository.this["functions"].repository_url
  })
  gateway_secrets = ["MAYFLY_ADMIN_KEY", "MAYFLY_HEARTBEAT_KEY", "MAYFLY_JWT_SECRET", "MAYFLY_REDIS"]
}

# --- the front door

resource "aws_acm_certificate" "this" {
  count = local.has_domain && var.certificate_arn == null ? 1 : 0

  domain_name       = var.domain_name
  validation_method = "DNS"

  tags = local.tags

  lifecycle {
    create_before_destroy = true

    precondition {
      condition     = var.zone_id != null
      error_message = "domain_name needs zone_id, for the records that show whose the domain is; or bring a certificate_arn."
    }
  }
}

resource "aws_route53_record" "validation" {
  count = length(aws_acm_certificate.this)

  zone_id         = var.zone_id
  name            = one(aws_acm_certificate.this[0].domain_validation_options[*].resource_record_name)
  type            = one(aws_acm_certificate.this[0].domain_validation_options[*].resource_record_type)
  records         = aws_acm_certificate.this[0].domain_validation_options[*].resource_record_value
  ttl             = 300
  allow_overwrite = true
}

resource "aws_acm_certificate_validation" "this" {
  count = length(aws_acm_certificate.this)

  certificate_arn         = aws_acm_certificate.this[0].arn
  validation_record_fqdns = aws_route53_record.validation[*].fqdn
}

resource "aws_route53_record" "gateway" {
  count = local.has_domain && var.zone_id != null ? 1 : 0

  zone_id = var.zone_id
  name    = var.domain_name
  type    = "A"

  alias {
    name                   = aws_lb.this.dns_name
    zone_id                = aws_lb.this.zone_id
    evaluate_target_health = true
  }
}

resource "aws_lb" "this" {
  name               = var.name
  internal           = !local.has_tls
  load_balancer_type = "application"
  subnets            = [for subnet in(local.has_tls ? aws_subnet.public : aws_subnet.private) : subnet.id]
  security_groups    = [aws_security_group.balancer.id]

  # Who waits for a task, or follows events, is silent for up to a minute.
  idle_timeout               = 120
  drop_invalid_header_fields = true
  desync_mitigation_mode     = "defensive"
  enable_deletion_protection = var.deletion_protection

  access_logs {
    bucket  = aws_s3_bucket.access.id
    prefix  = "balancer"
    enabled = true
  }

  tags = local.tags

  depends_on = [aws_s3_bucket_policy.access]
}

resource "aws_lb_target_group" "gateway" {
  name        = "${var.name}-gateway"
  vpc_id      = aws_vpc.this.id
  target_type = "ip"
  protocol    = "HTTP"
  port        = local.ports.gateway

  # Running requests end: a call waits for its task.
  deregistration_delay = 60

  # Whether it lives, not whether Redis does: posting goes on without, so nobody is to be replaced for that.
  health_check {
    path                = "/healthz"
    matcher             = "200"
    interval            = 10
    timeout             = 5
    healthy_threshold   = 2
    unhealthy_threshold = 3
  }

  tags = local.tags
}

resource "aws_lb_listener" "tls" {
  count = local.has_tls ? 1 : 0

  load_balancer_arn = aws_lb.this.arn
  port              = 443
  protocol          = "HTTPS"
  certificate_arn   = local.certificate
  ssl_policy        = "ELBSecurityPolicy-TLS13-1-2-2021-06"

  default_action {
    type             = "forward"
    target_group_arn = aws_lb_target_group.gateway.arn
  }

  tags = local.tags
}

resource "aws_lb_listener" "inside" {
  count = local.has_tls ? 0 : 1

  load_balancer_arn = aws_lb.this.arn
  port              = 80
  protocol          = "HTTP"

  default_action {
    type             = "forward"
    target_group_arn = aws_lb_target_group.gateway.arn
  }

  tags = local.tags
}

# --- the service

resource "aws_ecs_task_definition" "gateway" {
  family                   = "${var.name}-gateway"
  requires_compatibilities = ["FARGATE"]
  network_mode             = "awsvpc"
  cpu                      = tostring(var.gateway.cpu)
  memory                   = tostring(var.gateway.memory)
  execution_role_arn       = aws_iam_role.execution["gateway"].arn
  task_role_arn            = aws_iam_role.task["gateway"].arn

  runtime_platform {
    operating_system_family = "LINUX"
    cpu_architecture        = "X86_64"
  }

  container_definitions = jsonencode([{
    name                   = "gateway"
    image                  = local.image
    command                = ["python", "-P", "-m", "gateway"]
    essential              = true
    user                   = "65532:65532"
    readonlyRootFilesystem = true
    # It ends its requests, for 15 s.
    stopTimeout  = 60
    portMappings = [{ containerPort = local.ports.gateway, protocol = "tcp" }]
    environment  = [for name, value in local.gateway_settings : { name = name, value = value }]
    secrets      = [for name in local.gateway_secrets : { name = name, valueFrom = aws_secretsmanager_secret.setting[name].arn }]
    # Each connection is an open file.
    ulimits         = [{ name = "nofile", softLimit = 65536, hardLimit = 65536 }]
    linuxParameters = { initProcessEnabled = true, capabilities = { drop = ["ALL"] } }
    logConfiguration = {
      logDriver = "awslogs"
      options = {
        awslogs-group         = aws_cloudwatch_log_group.this["gateway"].name
        awslogs-region        = local.region
        awslogs-stream-prefix = "gateway"
      }
    }
  }])

  tags = local.tags
}

resource "aws_ecs_service" "gateway" {
  name             = "gateway"
  cluster          = aws_ecs_cluster.this.id
  task_definition  = aws_ecs_task_definition.gateway.arn
  desired_count    = var.gateway.min
  launch_type      = "FARGATE"
  platform_version = "LATEST"
  propagate_tags   = "SERVICE"

  health_check_grace_period_seconds  = 60
  deployment_minimum_healthy_percent = 100
  deployment_maximum_percent         = 200
  availability_zone_rebalancing      = "ENABLED"

  deployment_circuit_breaker {
    enable   = true
    rollback = true
  }

  network_configuration {
    subnets          = [for subnet in aws_subnet.private : subnet.id]
    security_groups  = [aws_security_group.gateway.id]
    assign_public_ip = false
  }

  load_balancer {
    target_group_arn = aws_lb_target_group.gateway.arn
    container_name   = "gateway"
    container_port   = local.ports.gateway
  }

  tags = local.tags

  lifecycle {
    # Autoscaling has the last word.
    ignore_changes = [desired_count]
  }

  depends_on = [
    aws_lb_listener.tls, aws_lb_listener.inside, aws_iam_role_policy.task, aws_iam_role_policy.execution,
    aws_secretsmanager_secret_version.setting,
  ]
}
