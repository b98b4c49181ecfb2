# The cluster, and what both services are told.

resource "aws_ecs_cluster" "this" {
  name = var.name

  setting {
    name  = "containerInsights"
    value = "enabled"
  }

  tags = local.tags
}

resource "aws_ecs_cluster_capacity_providers" "this" {
  cluster_name       = aws_ecs_cluster.this.name
  capacity_providers = ["FARGATE", aws_ecs_capacity_provider.hosts.name]
}

locals {
  tags  = merge({ Application = "mayfly", Deployment = var.name }, var.tags)
  image = "${aws_ecr_repository.this["mayfly"].repository_url}:${var.image_tag}"

  # Settings of mayfly/settings.py: of whoever speaks to the log, of whoever builds or runs functions, and those that
  # gateways and dispatchers have in common.
  log_settings = {
    MAYFLY_KAFKA                = aws_msk_cluster.this.bootstrap_brokers_sasl_iam
    MAYFLY_KAFKA_SECURITY       = "SASL_SSL"
    MAYFLY_KAFKA_SASL_MECHANISM = "OAUTHBEARER"
    MAYFLY_KAFKA_REGION         = local.region
    MAYFLY_PARTITIONS           = tostring(var.partitions)
    MAYFLY_QUEUE                = var.queue
  }
  engine_settings = {
    MAYFLY_DOCKER_HOST          = "unix:///var/run/docker.sock"
    MAYFLY_FUNCTIONS_REPOSITORY = aws_ecr_repository.this["functions"].repository_url
  }
  settings = merge(local.log_settings, {
    MAYFLY_S3_BUCKET       = aws_s3_bucket.tasks.id
    MAYFLY_S3_REGION       = local.region
    MAYFLY_SECRETS_KMS_KEY = aws_kms_key.secrets.arn
  })
}
