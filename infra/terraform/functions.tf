# Functions with runtime = "ecs": each of their tasks is a task of ECS on Fargate, in a cluster where nothing else runs.
# They have no role, and reach public addresses, S3 and the registry: what each is given and gives back goes by
# presigned URLs.

locals {
  on_fargate = var.functions_on_fargate ? 1 : 0

  # The names of their task definitions, which dispatchers register, begin with this.
  function_family = "${var.name}-fn"
  function_prefix = var.functions_on_fargate ? ["remote/*"] : []

  function_settings = var.functions_on_fargate ? {
    MAYFLY_ECS_CLUSTER         = aws_ecs_cluster.functions[0].name
    MAYFLY_ECS_REGION          = local.region
    MAYFLY_ECS_SUBNETS         = join(",", [for subnet in aws_subnet.private : subnet.id])
    MAYFLY_ECS_SECURITY_GROUPS = aws_security_group.functions[0].id
    MAYFLY_ECS_EXECUTION_ROLE  = aws_iam_role.function[0].arn
    MAYFLY_ECS_FAMILY          = local.function_family
  } : {}
}

resource "aws_ecs_cluster" "functions" {
  count = local.on_fargate

  name = "${var.name}-functions"

  setting {
    name  = "containerInsights"
    value = "enabled"
  }

  tags = local.tags
}

resource "aws_ecs_cluster_capacity_providers" "functions" {
  count = local.on_fargate

  cluster_name       = aws_ecs_cluster.functions[0].name
  capacity_providers = ["FARGATE", "FARGATE_SPOT"]
}

resource "aws_security_group" "functions" {
  count = local.on_fargate

  name        = "${var.name}-functions"
  description = "Functions on Fargate: nobody connects to them"
  vpc_id      = aws_vpc.this.id

  tags = merge(local.tags, { Name = "${var.name}-functions" })
}

# --- starting them

resource "aws_iam_role" "function" {
  count = local.on_fargate

  name               = "${var.name}-function-execution"
  description        = "What ECS needs to start a function of ${var.name}: its image"
  assume_role_policy = data.aws_iam_policy_document.tasks_may_assume.json

  tags = local.tags
}

data "aws_iam_policy_document" "function" {
  count = local.on_fargate

  # It has no resource to be limited to.
  statement {
    sid       = "Registry"
    actions   = ["ecr:GetAuthorizationToken"]
    resources = ["*"]
  }

  statement {
    sid       = "Image"
    actions   = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
    resources = [aws_ecr_repository.this["functions"].arn]
  }
}

resource "aws_iam_role_policy" "function" {
  count = local.on_fargate

  name   = "start"
  role   = aws_iam_role.function[0].id
  policy = data.aws_iam_policy_document.function[0].json
}

# --- what a dispatcher does with them

data "aws_iam_policy_document" "runs_functions" {
  count = local.on_fargate

  statement {
    sid       = "Runs"
    actions   = ["ecs:RunTask"]
    resources = ["arn:${local.partition}:ecs:${local.region}:${local.account}:task-definition/${local.function_family}-*:*"]

    condition {
      test     = "ArnEquals"
      variable = "ecs:cluster"
      values   = [aws_ecs_cluster.functions[0].arn]
    }
  }

  statement {
    sid       = "Follows"
    actions   = ["ecs:DescribeTasks", "ecs:StopTask"]
    resources = ["arn:${local.partition}:ecs:${local.region}:${local.account}:task/${aws_ecs_cluster.functions[0].name}/*"]

    condition {
      test     = "ArnEquals"
      variable = "ecs:cluster"
      values   = [aws_ecs_cluster.functions[0].arn]
    }
  }

  # What it is limited to is the cluster: of tasks that are not known yet there is no ARN.
  statement {
    sid       = "Finds"
    actions   = ["ecs:ListTasks"]
    resources = ["*"]

    condition {
      test     = "ArnEquals"
      variable = "ecs:cluster"
      values   = [aws_ecs_cluster.functions[0].arn]
    }
  }

  # A definition has no ARN before it is there. What one of another name would be good for, the statement Runs says;
  # and which roles it can name, the next one.
  statement {
    sid       = "Registers"
    actions   = ["ecs:RegisterTaskDefinition"]
    resources = ["*"]
  }

  statement {
    sid       = "Passes"
    actions   = ["iam:PassRole"]
    resources = [aws_iam_role.function[0].arn]

    condition {
      test     = "StringEquals"
      variable = "iam:PassedToService"
      values   = ["ecs-tasks.amazonaws.com"]
    }
  }
}

resource "aws_iam_role_policy" "runs_functions" {
  count = local.on_fargate

  name   = "functions"
  role   = aws_iam_role.task["dispatcher"].id
  policy = data.aws_iam_policy_document.runs_functions[0].json
}
